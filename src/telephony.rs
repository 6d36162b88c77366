//! The seam between gateway and backend.
