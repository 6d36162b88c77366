//! What supervision wishes, done.

use super::call::{LegStage, MonitorLink, Release};
use super::session::first_of;
use super::{B2bua, Environment, Output, Persist, identity};
use crate::media::{CallKey, MediaCommand};
use crate::model::{Activity, CallId, DeviceId, Fact, MonitorFact, Now, PartyRole};
use crate::sip::leg::{Destination, LegCommand, LegSource};
use crate::sip::sdp::Direction;
use crate::supervision::{LegOutcome, SupervisionOutput};

/// RFC 3261 8.1.1.6.
const MAX_FORWARDS: u8 = 70;

impl<O: Environment> B2bua<O> {
    pub(super) fn apply(&mut self, wish: SupervisionOutput, now: Now) {
        match wish {
            SupervisionOutput::AskAdmission(asked) => self.outputs.push_back(Output::Fact(Fact::AdmissionAsked(asked))),
            SupervisionOutput::Invite {
                supervisor,
                target,
                call,
                activity,
            } => {
                if self.bring_in(&supervisor, target, &call, activity).is_none() {
                    self.supervision.handle_leg(&supervisor, &call, LegOutcome::Unreachable, now);
                }
            }
            SupervisionOutput::Hear {
                supervisor,
                call,
                activity,
                coached,
                takeover,
            } => {
                let before = self.place(&supervisor, &call, |link| {
                    let before = link.coached.take().filter(|_| link.joined);
                    link.activity = activity;
                    link.joined = true;
                    link.coached.clone_from(&coached);
                    link.takeover = takeover;
                    before
                });
                if let (Some(before), Some(agent)) = (before, coached)
                    && before.as_ref() != Some(&agent)
                {
                    self.beep(&agent, &call);
                }
            }
            SupervisionOutput::Release {
                supervisor,
                call,
                reason: _,
            } => self.release(&supervisor, &call),
            SupervisionOutput::Changed(monitor) => self.keep(monitor),
            SupervisionOutput::Gone { supervisor } => {
                self.kept.remove(&supervisor);
                self.outputs.push_back(Output::Keep(Persist::NoMonitor {
                    supervisor: supervisor.clone(),
                }));
                self.outputs.push_back(Output::Fact(Fact::MonitorGone { supervisor }));
            }
            SupervisionOutput::Failed(failure) => self.outputs.push_back(Output::Fact(Fact::Failed(failure))),
        }
    }

    /// Calls the supervisor's phone, which is to answer by itself and shows whom he coaches.
    fn bring_in(&mut self, supervisor: &DeviceId, target: DeviceId, call: &CallId, activity: Activity) -> Option<()> {
        let key = self.live(call)?;
        let device = self.devices.get(supervisor).filter(|device| device.registered)?;
        let (number, policy) = (device.extension.number.clone(), self.policy_of_extension(&device.extension));
        let first = self.calls.get(&key)?.codec();
        let codecs = first_of(first.as_slice(), &self.config.codecs);
        let leg = self.new_leg();
        let (peer, named) = (LegSource::Account(supervisor.clone()), (number, PartyRole::Supervisor));
        let mut party = self.new_party(key, leg, peer, named, policy, LegStage::Invited)?;
        let shown = self.shown(&target);
        let invite = LegCommand::Invite {
            leg,
            to: Destination::Device(supervisor.clone()),
            from: identity(&shown, format!("{activity} {shown}")),
            offer: party.local.offer_codecs(Direction::SendRecv, &codecs),
            auto_answer: true,
            swallow_digits: true,
            // Supervision gives up by itself; this is only a net below it.
            timeout: self.config.supervision.invite_timeout * 2,
            max_forwards: MAX_FORWARDS,
            passed: Vec::new(),
        };
        self.invitations.push((leg, invite));
        party.link = Some(MonitorLink {
            target,
            activity,
            joined: false,
            coached: None,
            takeover: false,
            agent_side_only: self.kept.get(supervisor).is_none_or(|monitor| monitor.agent_side_only),
        });
        self.add_party(key, party);
        Some(())
    }

    /// `None`: he is not there.
    fn place<T>(&mut self, supervisor: &DeviceId, call: &CallId, change: impl FnOnce(&mut MonitorLink) -> T) -> Option<T> {
        let key = self.live(call)?;
        let link = self.calls.get_mut(&key)?.supervisor(supervisor)?.link.as_mut()?;
        self.changed.insert(key);
        Some(change(link))
    }

    /// The agent is monitored from now on, and hears it where that is wished for.
    fn beep(&mut self, agent: &DeviceId, call: &CallId) {
        if let Some(leg) = self.party(agent, call).ok().map(|party| party.leg)
            && self.config.beep
        {
            self.outputs.push_back(Output::Media(MediaCommand::Beep { leg }));
        }
    }

    fn release(&mut self, supervisor: &DeviceId, call: &CallId) {
        let Some(key) = self.live(call) else { return };
        let Some(call) = self.calls.get_mut(&key) else { return };
        if let Some(party) = call.supervisor(supervisor) {
            party.end(Release::Hangup(None), &mut self.releases);
            self.changed.insert(key);
        }
    }

    /// Publishes a monitor, and keeps it if more than its state has changed.
    fn keep(&mut self, monitor: MonitorFact) {
        if let Some(call) = monitor.state.call() {
            self.place(&monitor.supervisor, call, |link| link.agent_side_only = monitor.agent_side_only);
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
