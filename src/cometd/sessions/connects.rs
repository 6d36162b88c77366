//! Connects: held, answered, overtaken, and what leaves with them.

use super::*;

impl Sessions {
    /// The reply with its events; `None` when it is held.
    pub(super) fn connect(
        &mut self,
        message: ClientMessage,
        from: &ClientOrigin,
        (reach, via): (ReplyPath, CometdTransport),
        alone: bool,
        now: Now,
    ) -> Option<Leaving> {
        let MessageKind::Connect { connection_type, advice } = &message.kind else {
            unreachable!("sorted before")
        };
        let (is_offered, advice) = (self.is_offered(connection_type.as_deref()), *advice);
        let no = match self.find(&message, from, reach) {
            Ok(no) => no,
            Err(why) => return Some((Vec::new(), self.stranger(message, why, from, now))),
        };
        if !is_offered {
            let reply = BayeuxReply {
                advice: self.sessions.get(&no).map(|session| self.retry(&session.id)),
                ..failed("/meta/connect", message.id, NO_COMMON_TYPE)
            };
            return Some((Vec::new(), reply));
        }
        if !self.can_resume(no, message.ext.ack) {
            self.end(no, SessionEnd::Restarted, now);
            return Some((Vec::new(), self.stranger(message, SessionEnd::Restarted, from, now)));
        }
        self.let_go_of_older(no, reach, now);
        self.attach(no, reach);
        self.acknowledge(no, message.ext.ack);
        self.change(no, |session| session.login_until = from.login_until);
        let session = self.sessions.get_mut(&no)?;
        let was_connected = std::mem::replace(&mut session.connected, true);
        let old = std::mem::replace(&mut session.transport, via.transport());
        self.counts.by_transport[old as usize] -= 1;
        self.counts.by_transport[via.transport() as usize] += 1;

        let hold = self.hold_for(advice);
        let slot = match via {
            CometdTransport::Http { multiplexed: false, .. } | CometdTransport::Callback => from.browser.clone(),
            CometdTransport::Http { multiplexed: true, .. } | CometdTransport::Socket(_) => None,
        };
        let has_slot = slot
            .as_ref()
            .is_none_or(|browser| self.held_by_browser.get(browser).copied().unwrap_or(0) < self.config.max_held_per_browser);
        let session = self.sessions.get(&no)?;
        let wants_hold = alone && was_connected && !self.draining && !hold.is_zero();
        let has_nothing = session.queue.is_empty() || session.is_pushed();
        let waits_for_outcome = alone && !session.may_deliver() && !session.is_pushed();
        let holds = wants_hold && has_nothing && has_slot;
        let connect = Connect {
            reach,
            id: message.id,
            wants_advice: advice.is_some(),
            at_once: !holds,
            crowded: wants_hold && has_nothing && !has_slot,
            interval: advice
                .and_then(|advice| advice.interval)
                .unwrap_or(self.config.interval)
                .min(LONGEST_INTERVAL),
            timesync: message.ext.timesync,
            received: now,
            slot: slot.filter(|_| holds),
        };
        self.ask_for_outcome(no, reach);
        if holds || waits_for_outcome {
            if let ReplyPath::Post(post) = reach {
                self.sessions_by_request.entry(post).or_default().push(no);
            }
            let until = now.mono + if holds { hold } else { OUTCOME };
            self.put(no, SessionState::Held { connect, until });
            None
        } else {
            self.depart(no, &connect, now)
        }
    }

    /// The newest connect wins: a held one of the same session is let go first.
    pub(super) fn let_go_of_older(&mut self, no: SessionId, reach: ReplyPath, now: Now) {
        let Some(SessionState::Held { connect, .. }) = self.sessions.get(&no).map(|session| &session.place) else {
            return;
        };
        let older = connect.reach;
        self.put(
            no,
            SessionState::Away {
                expires: now.mono + self.config.max_interval,
            },
        );
        match older {
            ReplyPath::Post(post) => {
                self.get_off(post, no);
                if older != reach {
                    self.outputs.push_back(Output::Overtaken { post });
                }
            }
            // CometD never answers it either.
            ReplyPath::Socket(_) => {}
        }
    }

    /// A session of an earlier life needs to hear what its client has, and all that came after it must still be there.
    pub(super) fn can_resume(&self, no: SessionId, ack: Option<i64>) -> bool {
        let Some(session) = self.sessions.get(&no).filter(|session| session.restored) else {
            return true;
        };
        let (Some(ack), Some(mut acks), Some(user)) = (ack, session.acks, &session.owner.user) else {
            return false;
        };
        self.ledger.reaches_back_to(user, acks.resume(u64::try_from(ack).unwrap_or(0)))
    }

    pub(super) fn acknowledge(&mut self, no: SessionId, ack: Option<i64>) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let Some(acks) = &mut session.acks else { return };
        let acknowledged = ack.and_then(|ack| u64::try_from(ack).ok());
        if !std::mem::take(&mut session.restored) {
            let before = (session.queue.len(), session.queue.bytes());
            if let Some(batch) = acknowledged {
                session.queue.acknowledge(batch);
            }
            let is_saved = session.saved;
            self.recount(no, before);
            if !is_saved {
                self.save(no);
            }
            return;
        }
        let after = acks.resume(acknowledged.unwrap_or(0));
        let patterns = session.subscriptions.iter().map(|(_, pattern)| (pattern.clone(), after));
        let want = Want {
            after: patterns.collect(),
            heard: Vec::new(),
        };
        let channels: Vec<&'static str> = STATES.into_iter().filter(|channel| session.takes(channel)).collect();
        if !channels.is_empty() {
            // Nobody knows what has changed while there was no gateway: the replay is what was told, the state what is.
            self.want(no, want);
            self.want_state(no, channels);
        }
    }

    pub(super) fn ask_for_outcome(&mut self, no: SessionId, reach: ReplyPath) {
        let Some(session) = self.sessions.get(&no) else { return };
        match session.in_doubt_elsewhere(reach) {
            Some(ReplyPath::Post(post)) => self.outputs.push_back(Output::Abandon { post }),
            Some(ReplyPath::Socket(socket)) => self.outputs.push_back(Output::AbandonSocket { socket }),
            None => {}
        }
    }

    pub(super) fn hold_for(&self, advice: Option<ClientAdvice>) -> Duration {
        let asked = advice.and_then(|advice| advice.timeout);
        asked.map_or(self.config.hold, |asked| asked.min(self.config.longest_hold))
    }

    /// Answers the held connect with whatever there is.
    pub(super) fn release(&mut self, no: SessionId, now: Now) {
        let Some(SessionState::Held { connect, .. }) = self.sessions.get(&no).map(|session| &session.place) else {
            return;
        };
        let connect = connect.clone();
        if let ReplyPath::Post(post) = connect.reach {
            self.get_off(post, no);
        }
        if let Some((events, reply)) = self.depart(no, &connect, now) {
            self.answer(connect.reach, events, vec![reply]);
        }
    }

    /// The session's events leave with the reply to a connect.
    pub(super) fn depart(&mut self, no: SessionId, connect: &Connect, now: Now) -> Option<Leaving> {
        let current = self.interval_of(&self.sessions.get(&no)?.id).as_millis() as u64;
        let session = self.sessions.get_mut(&no)?;
        let before = (session.queue.len(), session.queue.bytes());
        let mut ext = ReplyExt {
            timesync: timesync(connect.timesync, connect.received, now),
            ..ReplyExt::default()
        };
        let (epoch, mut is_rebased) = (self.ledger.epoch(), false);
        let (pushed, deliverable) = (session.is_pushed(), session.may_deliver());
        let (events, in_doubt) = match &mut session.acks {
            Some(acks) if deliverable => {
                // What is older than this life of the process goes alone: then its numbers can be left behind.
                let older = if acks.base < epoch { session.queue.before(epoch) } else { None };
                is_rebased = older.is_none() && acks.rebase(epoch);
                let count = older.unwrap_or(session.queue.len());
                let batch = acks.next(session.queue.iter().take(count));
                ext.ack = Some(AckExt::Batch(batch));
                (session.queue.leave_with(batch, count), Vec::new())
            }
            Some(acks) => {
                ext.ack = Some(AckExt::Batch(acks.next([].iter())));
                (Vec::new(), Vec::new())
            }
            None if !pushed && deliverable => {
                let events = session.queue.take();
                (events.clone(), events)
            }
            None => (Vec::new(), Vec::new()),
        };
        let advice = if connect.crowded {
            session.told_interval = self.config.multi_interval.as_millis() as u64;
            Some(Advice {
                reconnect: Reconnect::Retry,
                interval: session.told_interval,
                timeout: Some(self.config.hold.as_millis() as u64),
                multiple_clients: Some(true),
            })
        } else if connect.wants_advice || session.told_interval != current {
            session.told_interval = current;
            let id = session.id.clone();
            Some(self.retry(&id))
        } else {
            None
        };
        let session = self.sessions.get_mut(&no)?;
        let interval = session.pause(connect.interval);
        if !session.is_in_doubt() {
            session.flight = Some(InFlight {
                by: connect.reach,
                oldest: events.first().map(|event| event.born),
                events: in_doubt,
                interval,
            });
        }
        self.counts.handed_out += events.len() as u64;
        self.recount(no, before);
        if is_rebased {
            self.save(no);
        }
        let expires = now.mono + interval + self.config.max_interval;
        self.put(no, SessionState::Away { expires });
        if let ReplyPath::Post(post) = connect.reach {
            self.sessions_by_request.entry(post).or_default().push(no);
        }
        let reply = BayeuxReply {
            advice,
            ext,
            ..done("/meta/connect", connect.id.clone())
        };
        Some((events, reply))
    }

    /// What left that way has arrived, or never will. The life of a session is counted from then on.
    pub(super) fn arrive(&mut self, no: SessionId, by: ReplyPath, cut: bool, now: Now) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let before = (session.queue.len(), session.queue.bytes());
        let mut interval = session.pause(self.config.interval);
        if let Some(flight) = session.flight.take_if(|flight| flight.by == by) {
            interval = flight.interval;
            if cut {
                session.queue.give_back(flight.events);
            } else if let Some(oldest) = flight.oldest {
                self.delivered.push(now.mono.saturating_duration_since(oldest));
            }
        }
        let lost_its_hold = cut && matches!(&session.place, SessionState::Held { connect, .. } if connect.reach == by);
        // On a websocket a frame may be anything; there the life is counted from when the connect was answered.
        let was_answered = matches!((&session.place, by), (SessionState::Away { .. }, ReplyPath::Post(_)));
        self.recount(no, before);
        if lost_its_hold || was_answered {
            let expires = now.mono + interval + self.config.max_interval;
            self.put(no, SessionState::Away { expires });
        }
        self.wake(no, now);
    }

    pub(super) fn get_off(&mut self, post: ClientRequestId, no: SessionId) {
        if let Some(riders) = self.sessions_by_request.get_mut(&post) {
            riders.retain(|one| *one != no);
            if riders.is_empty() {
                self.sessions_by_request.remove(&post);
            }
        }
    }
}
