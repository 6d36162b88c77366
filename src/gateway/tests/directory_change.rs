//! A directory that changes while a supervisor is on a call.

use super::*;

fn meg(directory: &mut Directory) -> &mut User {
    Arc::make_mut(directory.users.get_mut(MEG).expect("Meg"))
}

/// Meg coaches Bob, and both desktops know it.
fn coaching() -> Harness {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    harness
}

impl Harness {
    fn changes(&mut self, change: impl FnOnce(&mut Directory)) -> Vec<Output> {
        let mut changed = directory();
        change(&mut changed);
        self.gateway.handle_directory(Arc::new(changed), self.now);
        self.outputs()
    }
}

fn stops(outputs: &[Output]) -> usize {
    let stop = |output: &&Output| {
        matches!(output, Output::Command {
            command: Command::StopMonitoring { supervisor }, context, ..
        } if supervisor.as_str() == MEG_PHONE && context.user == Some(MEG.into()))
    };
    outputs.iter().filter(stop).count()
}

fn cancelled(outputs: &[Output]) -> Vec<String> {
    let text = |output: &Output| match output {
        Output::Audit { record, .. } if record.event == AuditEvent::Cancelled => {
            assert_eq!(record.user, Some(MEG.into()));
            record.refusal.as_ref().map(|refusal| refusal.to_string())
        }
        _ => None,
    };
    outputs.iter().filter_map(text).collect()
}

fn errors_told(outputs: &[Output]) -> usize {
    let error = |output: &&Output| {
        matches!(output, Output::Notice(Notice { body: NoticeBody::Error { .. }, .. }))
    };
    outputs.iter().filter(error).count()
}

#[test]
fn each_right_that_is_lost_cancels_the_monitor_once_and_says_why() {
    type Change = fn(&mut Directory);
    let rows: [(Change, &str); 6] = [
        (|all| meg(all).roles = [Role::Agent].into(), "Only a supervisor may monitor."),
        (
            |all| {
                meg(all).features.remove(&Feature::SupervisorMonitoring);
            },
            "is required.",
        ),
        (
            |all| {
                meg(all).features.remove(&Feature::Voice);
            },
            "is required.",
        ),
        (
            |all| {
                sales(all).supervisors.remove(MEG);
            },
            "in none of your groups.",
        ),
        (
            |all| {
                sales(all).agents.remove("bob");
            },
            "in none of your groups.",
        ),
        (|all| sales(all).agent_side_only = true, "ask again."),
    ];
    for (change, why) in rows {
        let mut harness = coaching();
        let outputs = harness.changes(change);
        assert_eq!(stops(&outputs), 1, "{why}: {outputs:#?}");
        let told = cancelled(&outputs);
        assert!(matches!(&told[..], [text] if text.contains(why)), "{why}: {told:?}");
        assert_eq!(errors_told(&outputs), 1, "{why}: {outputs:#?}");
        assert_eq!(stops(&harness.changes(change)), 0, "it is on its way");
    }
}

#[test]
fn whoever_loses_the_device_or_goes_loses_the_monitor_and_the_calls_of_the_device() {
    type Change = fn(&mut Directory);
    let rows: [(Change, bool); 3] = [
        (|all| meg(all).devices.clear(), true),
        (
            |all| {
                meg(all).devices.clear();
                let eve = Arc::make_mut(all.users.get_mut("eve").expect("Eve"));
                eve.devices.push(MEG_PHONE.into());
            },
            true,
        ),
        (
            |all| {
                all.users.remove(MEG);
                sales(all).supervisors.clear();
            },
            false,
        ),
    ];
    for (change, is_there) in rows {
        let mut harness = coaching();
        harness.logs_in(MEG);
        let outputs = harness.changes(change);
        assert_eq!((stops(&outputs), cancelled(&outputs).len()), (1, 1), "{outputs:#?}");
        let released = outputs.iter().any(|output| {
            matches!(output, Output::Notice(Notice {
                user, body: NoticeBody::CallStateChange { call, .. }, ..
            }) if user.as_str() == MEG && call.state == LegState::Released)
        });
        assert!(released, "{outputs:#?}");
        let forgotten = outputs
            .iter()
            .any(|output| matches!(output, Output::Keep { user, presence: None } if user.as_str() == MEG));
        assert_eq!(forgotten, !is_there);
        assert_eq!(harness.reads(MEG, Query::Me).is_ok(), is_there);
    }
}

#[test]
fn a_device_that_passes_to_another_user_is_told_to_that_user_with_its_calls() {
    let mut harness = coaching();
    let outputs = harness.changes(|all| {
        Arc::make_mut(all.users.get_mut("bob").expect("Bob")).devices.clear();
        Arc::make_mut(all.users.get_mut("eve").expect("Eve")).devices.push(BOB_PHONE.into());
    });
    let told_eve = |fits: fn(&NoticeBody) -> bool| {
        outputs.iter().any(|output| {
            matches!(output, Output::Notice(Notice { user, body, .. })
                if user.as_str() == "eve" && fits(body))
        })
    };
    assert!(told_eve(|body| matches!(body, NoticeBody::CallStateChange { .. })), "{outputs:#?}");
    assert_eq!(stops(&outputs), 1, "Eve is in none of Meg's groups");
}

#[test]
fn what_concerns_nobody_on_a_call_changes_nothing_there_and_the_same_again_is_no_news() {
    let mut harness = coaching();
    let outputs = harness.changes(|all| {
        Arc::make_mut(all.users.get_mut("otto").expect("Otto")).email = "o@example.com".into();
    });
    assert_eq!((stops(&outputs), cancelled(&outputs).len()), (0, 0), "{outputs:#?}");
    assert!(outputs.iter().all(|output| {
        matches!(output, Output::Notice(Notice { user, .. }) if user.as_str() == "otto")
    }));
    let again = harness.changes(|all| {
        Arc::make_mut(all.users.get_mut("otto").expect("Otto")).email = "o@example.com".into();
    });
    assert_eq!(again, []);
}

#[test]
fn a_right_that_is_given_counts_at_once() {
    let mut harness = Harness::new();
    assert_eq!(harness.reason(MEG, coach_from(MEG_PHONE, EVE_PHONE)), Reason::NotPermitted);
    harness.changes(|all| {
        sales(all).agents.insert("eve".into());
    });
    let (answer, commands, _) = harness.asks(MEG, coach_from(MEG_PHONE, EVE_PHONE));
    assert_eq!((answer, commands.len()), (Ok(Answer::Accepted), 1));
}
