//! What supervision wishes, done.

use super::call::{LegStage, MonitorLink, Release};
use super::session::first_of;
use super::{B2bua, Environment, Output, Persist, identity};
use crate::media::{CallKey, MediaCommand};
use crate::model::{Activity, CallId, DeviceId, Fact, MonitorFact, Now, PartyRole};
use crate::sip::leg::{Destination, LegCommand, LegSource, MAX_FORWARDS};
use crate::sip::sdp::Direction;
use crate::supervision::{LegOutcome, SupervisionOutput as Wish};

impl<O: Environment> B2bua<O> {
    pub(super) fn apply(&mut self, wish: Wish, now: Now) {
        match wish {
            Wish::AskAdmission(asked) => self.outputs.push_back(Output::Fact(Fact::AdmissionAsked(asked))),
            Wish::Invite {
                supervisor,
                target,
                call,
                activity,
            } => {
                if self.bring_in(&supervisor, target, &call, activity).is_none() {
                    self.supervision.handle_leg(&supervisor, &call, LegOutcome::Unreachable, now);
                }
            }
            Wish::Hear {
                supervisor,
                call,
                activity,
                coached,
                takeover,
            } => {
                let before = self.place(&supervisor, &call, |watch| {
                    let before = watch.coached.take().filter(|_| watch.joined);
                    watch.activity = activity;
                    watch.joined = true;
                    watch.coached.clone_from(&coached);
                    watch.takeover = takeover;
                    before
                });
                if let (Some(before), Some(agent)) = (before, coached)
                    && before.as_ref() != Some(&agent)
                {
                    self.beep(&agent, &call);
                }
            }
            Wish::Release {
                supervisor,
                call,
                reason: _,
            } => self.release(&supervisor, &call),
            Wish::Changed(monitor) => self.keep(monitor),
            Wish::Gone { supervisor } => {
                self.kept.remove(&supervisor);
                self.outputs.push_back(Output::Keep(Persist::NoMonitor {
                    supervisor: supervisor.clone(),
                }));
                self.outputs.push_back(Output::Fact(Fact::MonitorGone { supervisor }));
            }
            Wish::Failed(failure) => self.outputs.push_back(Output::Fact(Fact::Failed(failure))),
        }
    }

    /// Calls the supervisor's phone, which is to answer by itself and shows whom he coaches.
    fn bring_in(&mut self, supervisor: &DeviceId, target: DeviceId, call: &CallId, activity: Activity) -> Option<()> {
        let key = self.live(call)?;
        let device = self.devices.get(supervisor).filter(|device| device.registered)?;
        let (number, terms) = (device.extension.number.clone(), self.terms_of_extension(&device.extension));
        let first = self.calls.get(&key)?.codec();
        let codecs = first_of(first.as_slice(), &self.config.codecs);
        let leg = self.new_leg();
        let (peer, party) = (LegSource::Account(supervisor.clone()), (number, PartyRole::Supervisor));
        let mut seat = self.new_seat(key, leg, peer, party, terms, LegStage::Invited)?;
        let shown = self.shown(&target);
        let invite = LegCommand::Invite {
            leg,
            to: Destination::Device(supervisor.clone()),
            from: identity(&shown, format!("{activity} {shown}")),
            offer: seat.local.offer_codecs(Direction::SendRecv, &codecs),
            auto_answer: true,
            swallow_digits: true,
            // Supervision gives up by itself; this is only a net below it.
            timeout: self.config.supervision.invite_timeout * 2,
            max_forwards: MAX_FORWARDS,
            passed: Vec::new(),
        };
        self.invitations.push((leg, invite));
        seat.watch = Some(MonitorLink {
            target,
            activity,
            joined: false,
            coached: None,
            takeover: false,
            agent_side_only: self.kept.get(supervisor).is_none_or(|monitor| monitor.agent_side_only),
        });
        self.sit_down(key, seat);
        Some(())
    }

    /// `None`: he is not there.
    fn place<T>(&mut self, supervisor: &DeviceId, call: &CallId, change: impl FnOnce(&mut MonitorLink) -> T) -> Option<T> {
        let key = self.live(call)?;
        let watch = self.calls.get_mut(&key)?.supervisor(supervisor)?.watch.as_mut()?;
        self.changed.insert(key);
        Some(change(watch))
    }

    /// The agent is monitored from now on, and hears it where that is wished for.
    fn beep(&mut self, agent: &DeviceId, call: &CallId) {
        if let Some(leg) = self.seat(agent, call).ok().map(|seat| seat.leg)
            && self.config.beep
        {
            self.outputs.push_back(Output::Media(MediaCommand::Beep { leg }));
        }
    }

    fn release(&mut self, supervisor: &DeviceId, call: &CallId) {
        let Some(key) = self.live(call) else { return };
        let Some(call) = self.calls.get_mut(&key) else { return };
        if let Some(seat) = call.supervisor(supervisor) {
            seat.end(Release::Hangup(None), &mut self.farewells);
            self.changed.insert(key);
        }
    }

    /// Publishes a monitor, and keeps it if more than its state has changed.
    fn keep(&mut self, monitor: MonitorFact) {
        if let Some(call) = monitor.state.call() {
            self.place(&monitor.supervisor, call, |watch| watch.agent_side_only = monitor.agent_side_only);
        }
        let kept = self.kept.insert(monitor.supervisor.clone(), monitor.clone());
        let same = kept.is_some_and(|kept| {
            MonitorFact {
                state: monitor.state.clone(),
                ..kept
            } == monitor
        });
        if !same {
            self.outputs.push_back(Output::Keep(Persist::Monitor(monitor.clone())));
        }
        self.outputs.push_back(Output::Fact(Fact::Monitor(monitor)));
    }

    pub(super) fn live(&self, call: &CallId) -> Option<CallKey> {
        self.by_id.get(call).copied()
    }
}

/// What a refusal of a supervisor's phone means.
pub(super) fn outcome_of(status: u16) -> LegOutcome {
    match status {
        486 | 600 => LegOutcome::Busy,
        408 | 487 => LegOutcome::NoAnswer,
        404 | 410 | 480 | 500..=599 | 604 => LegOutcome::Unreachable,
        _ => LegOutcome::Rejected,
    }
}
