//! G.729 over real sockets: relayed as it is, joined by nobody.

use crate::support::server::{AGENT, Account, CUSTOMER, SUPERVISOR, Server};
use crate::support::sip_fixture::eventually;
use crate::support::talk::PATIENCE;
use crate::support::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use undertone::demo::phone::audio::Companding;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig, PhoneSrtp};
