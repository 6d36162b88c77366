//! Accounts and trunks that go and come.

use super::*;
use crate::sip::config::{SipAccounts, SipDirectory};

fn unregistered() -> [LegEvent; 1] {
    [LegEvent::Registered { device: device("phone-1"), registered: false }]
}

impl Stage {
    pub(super) fn directory(&mut self, change: impl FnOnce(&mut SipDirectory)) {
        let mut new = self.agent.config().directory();
        change(&mut new);
        self.agent.handle_directory(new, self.now);
        self.drain();
    }
}

#[test]
fn an_account_that_is_removed_is_registered_no_more_and_may_not_come_back() {
    let mut stage = Stage::new();
    stage.register_phone();
    stage.events();
    stage.directory(|new| new.accounts = SipAccounts::default());
    assert_eq!(stage.events(), unregistered());
    assert_eq!(stage.agent.registered_devices().count(), 0);
    assert_eq!(stage.kept[&device("phone-1")], [], "nor after a restart");
    stage.hear(PHONE, &super::register("1001", 99, "Contact: <sip:1001@10.0.0.3:5062>\n"));
    assert_eq!(stage.agent.registered_devices().count(), 0);
    assert_eq!(stage.events(), []);
}

#[test]
fn another_password_or_number_unregisters_and_another_setting_does_not() {
    type Change = fn(&mut SipAccount);
    let rows: [(Change, bool); 3] = [
        (|account| account.qualify = false, false),
        (
            |account| {
                let number = account.number.clone();
                *account = SipAccount::new(account.device.clone(), number, REALM, "another");
            },
            true,
        ),
        (
            |account| {
                let device = account.device.clone();
                *account = SipAccount::new(device, "1011".into(), REALM, "secret");
            },
            true,
        ),
    ];
    for (change, unregisters) in rows {
        let mut stage = Stage::new();
        stage.register_phone();
        stage.events();
        stage.directory(|new| change(new.accounts.iter_mut().next().expect("an account")));
        assert_eq!(stage.events() == unregistered(), unregisters);
        assert_eq!(stage.agent.registered_devices().count(), usize::from(!unregisters));
    }
}

#[test]
fn a_trunk_that_is_removed_begins_no_call_and_ends_its_own() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.directory(|new| new.trunks.clear());
    stage.events();
    stage.sent();
    stage.hear(CARRIER, &invite("c2", "INVITE", 1, ""));
    assert_eq!(stage.events(), [], "a stranger by now");
    stage.sent();
    stage.command(LegCommand::Hangup { leg: call.leg, reason: None });
    let bye = stage.request("BYE");
    stage.hear(CARRIER, &answer(&bye, 200, "", "", ""));
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.agent.legs(), 0, "its answer is heard");
}
