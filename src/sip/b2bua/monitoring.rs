//! What supervision asks for, done.

use super::call::Call;
use super::codec_selection::first_of;
use super::party::{LegStage, MonitorLink, PartyStart, Release};
use super::{B2bua, Environment, Output, Persist, identity};
use crate::media::MediaCommand;
use crate::model::{Activity, CallId, DeviceId, Fact, MonitorFact, Now, PartyRole};
use crate::sip::leg::{Destination, LegCommand, LegSource, MAX_FORWARDS};
use crate::sip::sdp::Direction;
use crate::supervision::{LegOutcome, SupervisionOutput};

impl<E: Environment> B2bua<E> {
    pub(super) fn apply(&mut self, output: SupervisionOutput, now: Now) {
        match output {
            SupervisionOutput::AskAdmission(asked) => {
                self.out.push(Output::Fact(Fact::AdmissionAsked(asked)))
            }
            SupervisionOutput::Invite { supervisor, target, call, activity } => {
                if self.bring_in(&supervisor, target, &call, activity).is_none() {
                    self.supervision.handle_leg(&supervisor, &call, LegOutcome::Unreachable, now);
                }
            }
            SupervisionOutput::Hear { supervisor, call, activity, coached, takeover } => {
                let Ok((found, ctx)) = self.find_named(&call, now) else {
                    return;
                };
                let Some(link) = found.monitor_link(&supervisor) else {
                    return;
                };
                let before = link.coached.take().filter(|_| link.joined);
                link.activity = activity;
                link.joined = true;
                link.coached.clone_from(&coached);
                link.takeover = takeover;
                ctx.out.changed.insert(found.key);
                // The agent is monitored from now on, and hears it where that is wished for.
                if let Some(agent) = coached.filter(|agent| before.as_ref() != Some(agent))
                    && let Ok(party) = found.party_on(&agent)
                    && ctx.config.beep
                {
                    ctx.out.media(MediaCommand::Beep { leg: party.leg });
                }
            }
            SupervisionOutput::Release { supervisor, call, reason: _ } => {
                self.release(&supervisor, &call, now)
            }
            SupervisionOutput::Changed(monitor) => self.keep(monitor, now),
            SupervisionOutput::Gone { supervisor } => {
                self.kept.remove(&supervisor);
                self.out.push(Output::Keep(Persist::NoMonitor { supervisor: supervisor.clone() }));
                self.out.push(Output::Fact(Fact::MonitorGone { supervisor }));
            }
            SupervisionOutput::Failed(failure) => {
                self.out.push(Output::Fact(Fact::Failed(failure)))
            }
        }
    }

    /// Calls the supervisor's phone, which is to answer by itself and shows the coached agent.
    fn bring_in(
        &mut self,
        supervisor: &DeviceId,
        target: DeviceId,
        call: &CallId,
        activity: Activity,
    ) -> Option<()> {
        let call = self.calls.named(call).ok()?;
        let (key, first) = (call.key, call.parties.codec());
        let device = self.plan.device(supervisor).filter(|device| device.registered)?;
        let (number, policy) =
            (device.extension.number.clone(), self.plan.policy_of_extension(&device.extension));
        let codecs = first_of(first.as_slice(), &self.config.codecs);
        let leg = self.legs.new_leg();
        let start = PartyStart {
            leg,
            peer: LegSource::Account(supervisor.clone()),
            number,
            role: PartyRole::Supervisor,
            policy,
            stage: LegStage::Invited,
        };
        let mut party = self.new_party(key, start)?;
        let shown = self.plan.shown(&target);
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
        self.out.invitations.push((leg, invite));
        party.link = Some(MonitorLink {
            target,
            activity,
            joined: false,
            coached: None,
            takeover: false,
            agent_side_only: self
                .kept
                .get(supervisor)
                .is_none_or(|monitor| monitor.agent_side_only),
        });
        self.add_party(key, party);
        Some(())
    }

    fn release(&mut self, supervisor: &DeviceId, call: &CallId, now: Now) {
        if let Ok((call, ctx)) = self.find_named(call, now)
            && let Some(party) = call.parties.supervisor(supervisor)
        {
            party.end(Release::Hangup(None), ctx.out);
            ctx.out.changed.insert(call.key);
        }
    }

    /// Publishes a monitor, and keeps it if more than its state has changed.
    fn keep(&mut self, monitor: MonitorFact, now: Now) {
        if let Some(call) = monitor.state.call()
            && let Ok((call, ctx)) = self.find_named(call, now)
            && let Some(link) = call.monitor_link(&monitor.supervisor)
        {
            link.agent_side_only = monitor.agent_side_only;
            ctx.out.changed.insert(call.key);
        }
        let kept = self.kept.insert(monitor.supervisor.clone(), monitor.clone());
        let same = kept
            .is_some_and(|kept| MonitorFact { state: monitor.state.clone(), ..kept } == monitor);
        if !same {
            self.out.push(Output::Keep(Persist::Monitor(monitor.clone())));
        }
        self.out.push(Output::Fact(Fact::Monitor(monitor)));
    }
}

impl Call {
    /// The link of a supervisor that is on the call, or called to it.
    fn monitor_link(&mut self, supervisor: &DeviceId) -> Option<&mut MonitorLink> {
        self.parties.supervisor(supervisor)?.link.as_mut()
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
