//! A backend without telephones.
