//! Asking twice under one request id does it once.

use super::{CommandCall, FactLog};
use crate::model::{
    CallerName, Command, CommandContext, Reason, Refusal, RequestId, UserData, UserId,
};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How long an answer is remembered: the contract says so.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How many answers are remembered: 50 commands a second for the whole time, a few megabytes.
const MOST: usize = 16_384;

type CommandOutcome = Result<u64, Refusal>;

/// The commands of the last minutes and what was answered.
#[derive(Debug, Default)]
pub(super) struct Deduplicator {
    asked: Mutex<CommandFingerprint>,
}

#[derive(Debug, Default)]
struct CommandFingerprint {
    entries: BTreeMap<CommandKey, CommandRecord>,
    /// Oldest first. An entry forgotten early leaves its line here; the time tells it from a later
    /// one.
    order: VecDeque<(Instant, CommandKey)>,
}

/// Another caller's or user's answer is nobody else's business.
type CommandKey = (Option<CallerName>, Option<UserId>, RequestId);

#[derive(Debug)]
struct CommandRecord {
    at: Instant,
    /// Without the call data that came with it: 64 KiB of it, thousands of times, is no few
    /// megabytes.
    command: Command,
    /// Of that data; none came with most.
    digest: Option<Digest>,
    answer: watch::Receiver<Option<CommandOutcome>>,
}

impl Deduplicator {
    /// The answer to a command: the revision before its facts, or the refusal. The command goes on
    /// when the caller no longer waits.
    pub(super) fn answer(
        self: &Arc<Self>,
        context: CommandContext,
        command: Command,
        commands: mpsc::Sender<CommandCall>,
        facts: &FactLog,
    ) -> impl Future<Output = CommandOutcome> + use<> {
        let answer = self.begin(context, command, commands, facts);
        async move {
            let mut answer = answer?;
            let answered =
                answer.wait_for(Option::is_some).await.ok().and_then(|answered| answered.clone());
            answered.unwrap_or_else(|| Err(gone()))
        }
    }

    fn begin(
        self: &Arc<Self>,
        context: CommandContext,
        mut command: Command,
        commands: mpsc::Sender<CommandCall>,
        facts: &FactLog,
    ) -> Result<watch::Receiver<Option<CommandOutcome>>, Refusal> {
        let caller = context.caller.as_ref().map(|caller| caller.name.clone());
        let key = (caller, context.user.clone(), context.request_id.clone());
        let now = Instant::now();
        let whole = command.clone();
        let digest = digest(&command.take_user_data());
        let mut asked = self.asked();
        asked.forget_before(now);
        if let Some(entry) = asked.entries.get(&key) {
            return if (&entry.command, &entry.digest) == (&command, &digest) {
                Ok(entry.answer.clone())
            } else {
                Err(Refusal::parameter(
                    Reason::InvalidInput,
                    "context.request_id",
                    "Parameter '{}' was used for another command.",
                ))
            };
        }
        let (tell, answer) = watch::channel(None);
        let entry = CommandRecord { at: now, command, digest, answer: answer.clone() };
        asked.entries.insert(key.clone(), entry);
        asked.order.push_back((now, key.clone()));
        drop(asked);
        let once = Arc::clone(self);
        let revision = facts.revision();
        tokio::spawn(async move {
            let answered = ask(context, whole, commands).await.map(|()| revision);
            if answered.as_ref().is_err_and(|refusal| refusal.reason == Reason::Unavailable) {
                // Nothing was done: asking again must not get this answer.
                once.asked().entries.remove(&key);
            }
            tell.send_replace(Some(answered));
        });
        Ok(answer)
    }

    fn asked(&self) -> MutexGuard<'_, CommandFingerprint> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommandFingerprint {
    fn forget_before(&mut self, now: Instant) {
        while let Some((at, key)) = self.order.front() {
            if now.duration_since(*at) < REMEMBERED && self.order.len() < MOST {
                return;
            }
            if self.entries.get(key).is_some_and(|entry| entry.at == *at) {
                self.entries.remove(key);
            }
            self.order.pop_front();
        }
    }
}

type Digest = [u8; 32];

fn digest(data: &UserData) -> Option<Digest> {
    if data.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    for text in data.pairs().flat_map(|(key, value)| [key, value]) {
        hash.update(text.len().to_be_bytes());
        hash.update(text);
    }
    Some(hash.finalize().into())
}

async fn ask(
    context: CommandContext,
    command: Command,
    commands: mpsc::Sender<CommandCall>,
) -> Result<(), Refusal> {
    let (placed, answer) = CommandCall::new(context, command);
    commands.try_send(placed).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            Refusal::new(Reason::Unavailable, "The telephony backend has too much to do.")
        }
        mpsc::error::TrySendError::Closed(_) => gone(),
    })?;
    answer.await.unwrap_or_else(|_| Err(gone()))
}

fn gone() -> Refusal {
    Refusal::new(Reason::Unavailable, "The telephony backend is gone.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(id: &str) -> CommandContext {
        CommandContext {
            request_id: id.into(),
            user: Some("boss".into()),
            caller: None,
            from: None,
            deadline: Duration::from_secs(5),
            feature_code: None,
        }
    }

    fn stop(supervisor: &str) -> Command {
        Command::StopMonitoring { supervisor: supervisor.into() }
    }

    /// A backend that refuses nothing and counts.
    fn backend() -> (mpsc::Sender<CommandCall>, watch::Receiver<usize>) {
        let (commands, mut placed) = mpsc::channel::<CommandCall>(8);
        let count = watch::Sender::new(0);
        let done = count.subscribe();
        tokio::spawn(async move {
            while let Some(one) = placed.recv().await {
                count.send_modify(|count| *count += 1);
                let _ = one.reply.send(Ok(()));
            }
        });
        (commands, done)
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_id_twice_is_done_once_and_after_five_minutes_again() {
        let once = Arc::new(Deduplicator::default());
        let (commands, done) = backend();
        let facts = FactLog::new();
        for _ in 0..3 {
            assert_eq!(once.answer(context("a"), stop("s"), commands.clone(), &facts).await, Ok(0));
        }
        assert_eq!(*done.borrow(), 1);
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(once.answer(context("a"), stop("s"), commands, &facts).await, Ok(0));
        assert_eq!(*done.borrow(), 2);
    }

    #[tokio::test]
    async fn an_id_is_not_used_for_another_command() {
        let once = Arc::new(Deduplicator::default());
        let (commands, done) = backend();
        let facts = FactLog::new();
        once.answer(context("a"), stop("s"), commands.clone(), &facts).await.unwrap();
        let refused = once.answer(context("a"), stop("t"), commands, &facts).await.unwrap_err();
        assert_eq!(refused.reason, Reason::InvalidInput);
        assert_eq!(*done.borrow(), 1);
    }

    #[tokio::test]
    async fn a_refusal_for_want_of_a_backend_is_not_remembered() {
        let once = Arc::new(Deduplicator::default());
        let facts = FactLog::new();
        let (nobody, _) = mpsc::channel(1);
        let refused = once.answer(context("a"), stop("s"), nobody, &facts).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Unavailable);
        let (commands, _) = backend();
        assert_eq!(once.answer(context("a"), stop("s"), commands, &facts).await, Ok(0));
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let once = Arc::new(Deduplicator::default());
        let (commands, _) = backend();
        let facts = FactLog::new();
        for n in 0..MOST + 10 {
            once.answer(context(&n.to_string()), stop("s"), commands.clone(), &facts)
                .await
                .unwrap();
        }
        assert!(once.asked().entries.len() <= MOST);
    }
}
