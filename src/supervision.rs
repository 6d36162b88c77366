//! Monitors, modes, scopes: who joins whom when.
