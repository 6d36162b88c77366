//! Credentials → user: a tower layer.
