//! Permissions, presence, views of devices and calls, audiences.

#[cfg(feature = "io")]
pub mod desk;
