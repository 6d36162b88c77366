//! What supervision asks for, done.

use super::call::Call;
use super::codec_selection::{common, first_of};
use super::parties::Parties;
use super::party::{LegStage, MonitorLink, Party, PartyStart, Release};
use super::step::Ctx;
use super::{B2bua, Environment, Output, identity};
use crate::media::{Codec, MediaCommand};
use crate::model::{
    Activity, CallId, DeviceId, Fact, JoinSound, MonitorFact, Now, PartyRole, Reason, Refusal,
};
use crate::sip::leg::{Destination, LegCommand, LegSource, MAX_FORWARDS};
use crate::sip::sdp::Direction;
use crate::supervision::{LegOutcome, SupervisionOutput};

impl<E: Environment> B2bua<E> {
    pub(super) fn apply(&mut self, output: SupervisionOutput, now: Now) {
        match output {
            SupervisionOutput::AskAdmission(asked) => match self.calls.relayed(&asked.call) {
                Some(codec) => self.keep_out(&asked.supervisor, &asked.call, codec, now),
                None => self.out.fact(Fact::AdmissionAsked(asked)),
            },
            SupervisionOutput::Invite { supervisor, target, call: id, activity } => {
                if let Some(codec) = self.calls.relayed(&id) {
                    return self.keep_out(&supervisor, &id, codec, now);
                }
                let agent_side_only = self.ahead.is_agent_side_only(&supervisor);
                let link = MonitorLink::new(target, activity, agent_side_only);
                let invited = match self.bring_in(&supervisor, link, &id, now) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(LegOutcome::Unregistered),
                    Err(link) => self.invite_supervisor(&supervisor, link, &id, now),
                };
                if let Err(outcome) = invited {
                    self.supervision.handle_leg(&supervisor, &id, outcome, now);
                }
            }
            SupervisionOutput::Hear { supervisor, call, activity, coached, takeover } => {
                if let Ok((call, mut ctx)) = self.find_named(&call, now) {
                    call.hear_supervisor(&supervisor, activity, coached, takeover, &mut ctx);
                }
            }
            SupervisionOutput::Release { supervisor, call, reason: _ } => {
                if let Ok((call, mut ctx)) = self.find_named(&call, now) {
                    call.release_supervisor(&supervisor, &mut ctx);
                }
            }
            SupervisionOutput::Changed(monitor) => {
                if let Some(call) = monitor.state.call()
                    && let Ok((call, mut ctx)) = self.find_named(call, now)
                {
                    call.limit_supervisor(&monitor, &mut ctx);
                }
                self.ahead.keep_monitor(&monitor, &mut self.out);
                self.out.fact(Fact::Monitor(monitor));
            }
            SupervisionOutput::Gone { supervisor } => {
                self.ahead.forget_monitor(&supervisor, &mut self.out);
                self.out.fact(Fact::MonitorGone { supervisor });
            }
            SupervisionOutput::Failed(failure) => {
                self.codes.note_failure(&failure.device, &failure.refusal);
                self.out.fact(Fact::Failed(failure));
            }
        }
    }

    /// The sound of the call is only relayed: no supervisor is brought in, and the call goes on as
    /// it is.
    fn keep_out(&mut self, supervisor: &DeviceId, call: &CallId, codec: Codec, now: Now) {
        self.out.push(Output::Relayed {
            supervisor: supervisor.clone(),
            call: call.clone(),
            codec,
        });
        self.supervision.handle_leg(supervisor, call, LegOutcome::Relayed, now);
    }

    /// Calls the supervisor's phone into a call. The error: why it can not be.
    fn invite_supervisor(
        &mut self,
        supervisor: &DeviceId,
        link: MonitorLink,
        id: &CallId,
        now: Now,
    ) -> Result<(), LegOutcome> {
        let found = self.find_named(id, now);
        let (call, mut ctx) = found.map_err(|_| LegOutcome::Unregistered)?;
        let party = link.invite(supervisor, call, &mut ctx)?;
        call.add(party, &mut ctx);
        Ok(())
    }
}

impl MonitorLink {
    /// The link of a supervisor that has not joined yet.
    fn new(target: DeviceId, activity: Activity, agent_side_only: bool) -> Self {
        let (joined, coached, takeover) = (false, None, false);
        Self { target, activity, joined, coached, takeover, agent_side_only }
    }

    /// The party of a supervisor's phone on a call, with the INVITE on its way: the phone is to
    /// answer by itself, and shows the monitored device.
    fn invite(
        self,
        supervisor: &DeviceId,
        call: &Call,
        ctx: &mut Ctx<'_>,
    ) -> Result<Party, LegOutcome> {
        let plan = ctx.plan;
        let device = plan.device(supervisor).filter(|device| device.registered);
        let device = device.ok_or(LegOutcome::Unregistered)?;
        let spoken = call.parties.codec();
        let codecs = first_of(spoken.as_slice(), &ctx.config.codecs);
        let leg = ctx.legs.new_leg();
        let start = PartyStart {
            leg,
            peer: LegSource::Account(supervisor.clone()),
            number: device.extension.number.clone(),
            role: PartyRole::Supervisor,
            policy: plan.policy_of_extension(&device.extension),
            stage: LegStage::Invited,
        };
        let codecs = common(&start.policy.codecs, &codecs);
        if codecs.is_empty() {
            return Err(LegOutcome::NoCommonCodec);
        }
        let mut party = ctx.open(call.key, start).ok_or(LegOutcome::Unregistered)?;
        let (shown, activity) = (plan.shown(&self.target), self.activity);
        let invite = LegCommand::Invite {
            leg,
            to: Destination::Device(supervisor.clone()),
            from: identity(&shown, format!("{activity} {shown}")),
            offer: party.local.offer_codecs(Direction::SendRecv, &codecs),
            auto_answer: true,
            swallow_digits: !ctx.config.feature_codes.has_keys(),
            // Supervision gives up by itself; this is only a net below it.
            timeout: ctx.config.supervision.invite_timeout * 2,
            max_forwards: MAX_FORWARDS,
            passed: Vec::new(),
            user_data: call.user_data.clone(),
            is_secure: false,
            reasons: Default::default(),
        };
        ctx.out.invitations.push((leg, invite));
        party.link = Some(self);
        Ok(party)
    }

    /// The supervisor hears from now on. The agent is returned that is monitored anew.
    fn join(
        &mut self,
        activity: Activity,
        coached: Option<DeviceId>,
        takeover: bool,
    ) -> Option<DeviceId> {
        let before = self.coached.take().filter(|_| self.joined);
        self.activity = activity;
        self.joined = true;
        self.coached.clone_from(&coached);
        self.takeover = takeover;
        coached.filter(|agent| before.as_ref() != Some(agent))
    }
}

impl Call {
    /// The supervisor has joined, or its activity has changed.
    fn hear_supervisor(
        &mut self,
        supervisor: &DeviceId,
        activity: Activity,
        coached: Option<DeviceId>,
        takeover: bool,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(party) = self.parties.supervisor(supervisor) else { return };
        let leg = party.leg;
        let Some(link) = party.link.as_mut() else { return };
        if !link.joined {
            let sound = JoinSound {
                supervisor: supervisor.clone(),
                target: link.target.clone(),
                call: self.id.clone(),
                since: ctx.now.wall,
                legs: Vec::new(),
            };
            ctx.out.joined.push((leg, sound));
        }
        let agent = link.join(activity, coached, takeover);
        ctx.out.changed.insert(self.key);
        // The agent is monitored from now on, and hears it where that is wished for.
        if let Some(agent) = agent.filter(|_| ctx.config.beep)
            && let Some(party) = self.parties.of(&agent)
        {
            ctx.out.media(MediaCommand::Beep { leg: party.leg });
        }
    }

    fn release_supervisor(&mut self, supervisor: &DeviceId, ctx: &mut Ctx<'_>) {
        if let Some(party) = self.parties.supervisor(supervisor) {
            party.end(Release::Hangup(None), ctx.out);
            ctx.out.changed.insert(self.key);
        }
    }

    /// What the supervisor may hear has changed.
    fn limit_supervisor(&mut self, monitor: &MonitorFact, ctx: &mut Ctx<'_>) {
        if let Some(link) = self.parties.monitor_link(&monitor.supervisor) {
            link.agent_side_only = monitor.agent_side_only;
            ctx.out.changed.insert(self.key);
        }
    }

    /// Silences an agent that a supervisor monitors toward every party but supervisors.
    pub(super) fn mute_monitored(
        &mut self,
        agent: &DeviceId,
        supervisor: &DeviceId,
        muted: bool,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Refusal> {
        let agent = self.parties.of_device(agent).ok_or_else(|| Refusal::no_call(&self.id))?;
        if muted == agent.muted_by.is_some() {
            return Err(Refusal::muted_already(muted));
        }
        agent.muted_by = muted.then(|| supervisor.clone());
        ctx.out.changed.insert(self.key);
        Ok(())
    }
}

impl Party {
    /// The agent that it monitors now.
    pub(super) fn monitored_agent(
        &self,
        device: &DeviceId,
        call: &CallId,
    ) -> Result<DeviceId, Refusal> {
        let Some(link) = self.link.as_ref().filter(|link| link.joined) else {
            let pattern = format!("Device '{{}}' does not monitor call '{call}'.");
            return Err(Refusal::device(Reason::InvalidState, device, pattern));
        };
        let agent = link.coached.clone();
        agent.ok_or_else(|| Refusal::new(Reason::InvalidState, "No agent is on the call."))
    }
}

impl Parties {
    /// The link of a supervisor that is on the call, or called to it.
    fn monitor_link(&mut self, supervisor: &DeviceId) -> Option<&mut MonitorLink> {
        self.supervisor(supervisor)?.link.as_mut()
    }
}
