//! Attached to real switches: phones stay where they are, and each call of theirs is led through
//! the product. What `undertone attach` prints is pasted as it is; who hears whom is decoded from
//! what arrives at each phone.
//!
//! `just switches` runs them, and makes the Asterisk that they need.

mod asterisk;
mod kamailio;
mod linphone;
mod scenarios;
mod site;
