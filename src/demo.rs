//! The whole product shown in one process.
