//! What is to be done next, and what waits for its outcome.

use super::audit_record::AuditRecord;
use super::feature_codes::FIRST_OWN_TOKEN;
use super::{GatewayConfig, Output, Token, WorkId};
use crate::model::{
    AdmissionAsked, Answer, CallId, Command, CommandContext, DeviceId, FeatureCodeDialled,
    FeatureCodeId, Notice, NoticeBody, Now, Refusal, RequestId, Topic, UserId,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The outputs of the gateway, and the commands and audit lines without an outcome yet.
pub(super) struct PendingWorks {
    /// Makes request ids of our own unlike those of the instance before.
    instance: String,
    command_deadline: Duration,
    audit_deadline: Duration,
    lines: BTreeMap<WorkId, (Instant, PendingLine)>,
    commands: BTreeMap<WorkId, (Instant, CommandOrigin)>,
    next: u64,
    /// The requests that a phone has made, by the token of each.
    feature_codes: BTreeMap<Token, DialledRequest>,
    next_own_token: Token,
    pub(super) outputs: VecDeque<Output>,
}

/// A request that a phone has made by a feature code.
struct DialledRequest {
    device: DeviceId,
    code: FeatureCodeId,
    user: UserId,
}

/// What waits for an audit line.
pub(super) enum PendingLine {
    /// A permitted request.
    Attempt { token: Token, command: Box<PendingCommand> },
    /// A refused request, for order's sake only.
    Refused { token: Token, refusal: Refusal },
    /// A join.
    Admission { user: UserId, asked: AdmissionAsked },
    /// Somebody hears a call: if this line cannot be written, the monitor ends.
    Listening { supervisor: DeviceId },
    /// Nothing.
    Nothing,
}

/// Who has sent a command.
pub(super) enum CommandOrigin {
    /// A request, which waits for the outcome.
    Request(Token, Box<PendingCommand>),
    /// The gateway itself.
    Gateway(Command),
}

/// A command with what is needed around it.
#[derive(Clone)]
pub(super) struct PendingCommand {
    pub(super) context: CommandContext,
    pub(super) command: Command,
    pub(super) record: AuditRecord,
    pub(super) audited: Audited,
    /// Digits were sent: the leg's user is told.
    pub(super) digits_on: Option<(CallId, DeviceId)>,
    /// The call's data changes, and has so many bytes then.
    pub(super) data_bytes: Option<(CallId, usize)>,
}

/// When the audit line of a permitted request is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Audited {
    /// Not at all.
    Never,
    /// Beside the command: what ends listening waits for nothing.
    Beside,
    /// Before the command.
    Before,
}

impl PendingWorks {
    pub(super) fn new(config: &GatewayConfig, instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            command_deadline: config.command_deadline,
            audit_deadline: config.audit_deadline,
            lines: BTreeMap::new(),
            commands: BTreeMap::new(),
            next: 0,
            feature_codes: BTreeMap::new(),
            next_own_token: FIRST_OWN_TOKEN,
            outputs: VecDeque::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.commands.is_empty() && self.feature_codes.is_empty()
    }

    /// Answers a request. A phone that has made it is told of a refusal by the backend, which knows
    /// itself what it has accepted.
    pub(super) fn reply(&mut self, token: Token, result: Result<Answer, Refusal>, now: Now) {
        let Some(DialledRequest { device, code, user }) = self.feature_codes.remove(&token) else {
            return self.outputs.push_back(Output::Reply { token, result });
        };
        if let Err(refusal) = result {
            self.command(Some(user), Command::RefuseFeatureCode { device, code, refusal }, now);
        }
    }

    /// The token of the request that a phone makes by this feature code.
    pub(super) fn wait_for_feature_code(
        &mut self,
        dialled: &FeatureCodeDialled,
        user: &UserId,
    ) -> Token {
        let token = self.next_own_token;
        self.next_own_token = Token(token.0.wrapping_add(1));
        let request = DialledRequest {
            device: dialled.device.clone(),
            code: dialled.id.clone(),
            user: user.clone(),
        };
        self.feature_codes.insert(token, request);
        token
    }

    /// The feature code by which a request was made, if it was.
    pub(super) fn feature_code_of(&self, token: Token) -> Option<FeatureCodeId> {
        self.feature_codes.get(&token).map(|request| request.code.clone())
    }

    pub(super) fn notify(&mut self, user: &UserId, topic: Topic, body: NoticeBody) {
        self.outputs.push_back(Output::Notice(notice(user, topic, body)));
    }

    /// Writes an audit line; `line` happens when it is written, or cannot be.
    pub(super) fn audit(&mut self, record: AuditRecord, line: PendingLine, now: Now) {
        let id = self.next_id();
        self.lines.insert(id, (now.mono + self.audit_deadline, line));
        self.outputs.push_back(Output::Audit { id, record });
    }

    /// Sends the command of a request.
    pub(super) fn send(&mut self, token: Token, pending: PendingCommand, now: Now) {
        let id = self.next_id();
        let (context, command) = (pending.context.clone(), pending.command.clone());
        let origin = CommandOrigin::Request(token, Box::new(pending));
        self.commands.insert(id, (now.mono + self.command_deadline, origin));
        self.outputs.push_back(Output::Command { id, context, command });
    }

    /// Sends a command of the gateway's own, on behalf of the device's user, if it has one.
    pub(super) fn command(&mut self, user: Option<UserId>, command: Command, now: Now) {
        let id = self.next_id();
        let origin = CommandOrigin::Gateway(command.clone());
        self.commands.insert(id, (now.mono + self.command_deadline, origin));
        let context = CommandContext {
            request_id: RequestId::from(format!("gateway-{}-{}", self.instance, id.0)),
            user,
            caller: None,
            from: None,
            deadline: self.command_deadline,
            feature_code: None,
        };
        self.outputs.push_back(Output::Command { id, context, command });
    }

    fn next_id(&mut self) -> WorkId {
        let id = WorkId(self.next);
        self.next += 1;
        id
    }

    /// What has waited for this audit line.
    pub(super) fn take_line(&mut self, id: WorkId) -> Option<PendingLine> {
        self.lines.remove(&id).map(|(_, line)| line)
    }

    /// Who has sent this command.
    pub(super) fn take_command(&mut self, id: WorkId) -> Option<CommandOrigin> {
        self.commands.remove(&id).map(|(_, origin)| origin)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let lines = self.lines.values().map(|(deadline, _)| *deadline);
        lines.chain(self.commands.values().map(|(deadline, _)| *deadline)).min()
    }

    /// The works without an outcome in time, in the order they began; true for an audit
    /// line.
    pub(super) fn late(&self, now: Instant) -> BTreeMap<WorkId, bool> {
        let lines = self.lines.iter().map(|(id, (deadline, _))| (*id, *deadline, true));
        let commands = self.commands.iter().map(|(id, (deadline, _))| (*id, *deadline, false));
        let late = lines.chain(commands).filter(|(_, deadline, _)| *deadline <= now);
        late.map(|(id, _, is_line)| (id, is_line)).collect()
    }
}

pub(super) fn notice(user: &UserId, topic: Topic, body: NoticeBody) -> Notice {
    Notice { user: user.clone(), topic, body }
}
