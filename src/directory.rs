//! Users, devices and groups as an admin changes them: one entry at a time, or many from a file;
//! each change is checked whole, and kept in the state file.
//!
//! ```text
//!  REST, CSV ──Edit──▶ editor: is it right? ──▶ records in the store ──▶ everybody is told
//! ```

pub mod editor;
pub mod fields;
#[cfg(feature = "io")]
pub mod handle;
#[cfg(feature = "io")]
pub mod kept;
#[cfg(feature = "io")]
pub mod table;

pub use editor::{DirectoryEditor, Edit, EditKind, EntryId, Given};
pub use fields::Fields;
