//! Two user agents and a network that loses, repeats and reorders.

use super::*;
use proptest::prelude::*;

const HOMES: [&str; 2] = ["192.0.2.1:5060", "192.0.2.2:5060"];

#[derive(Clone, Debug)]
struct Weather {
    seed: u64,
    loss: u64,
    repeat: u64,
    jitter_ms: u64,
    protocol: Protocol,
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Call,
    Ring,
    Accept,
    Reject,
    Offer,
    AskToAnswer,
    Hangup,
}

#[derive(Clone, Debug)]
struct Step {
    after_ms: u64,
    side: usize,
    deed: Deed,
    which: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Begun,
    Talking,
    Over,
}

struct World {
    agents: Vec<UserAgent>,
    now: Now,
    weather: Weather,
    chance: u64,
    order: u64,
    wire: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    legs: [BTreeMap<LegId, Course>; 2],
    next_leg: u64,
}

impl World {
    fn new(weather: Weather) -> World {
        let now = start();
        let agent = |home: usize| {
            let trunk = Trunk::at("other", address(HOMES[1 - home]), weather.protocol);
            let config = SipConfig { trunks: vec![trunk], ..SipConfig::default() };
            UserAgent::new(
                config,
                vec![(weather.protocol, address(HOMES[home]))],
                [home as u8; 32],
                now,
            )
        };
        World {
            agents: vec![agent(0), agent(1)],
            now,
            chance: weather.seed | 1,
            weather,
            order: 0,
            wire: BTreeMap::new(),
            legs: [BTreeMap::new(), BTreeMap::new()],
            next_leg: 1,
        }
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % bound.max(1)
    }

    fn drain(&mut self, side: usize) {
        while let Some(output) = self.agents[side].poll_output() {
            match output {
                Output::Transmit { bytes, .. } => self.put(1 - side, bytes),
                Output::Event(event) => self.react(side, event),
                Output::Known(_)
                | Output::Qualified { .. }
                | Output::Connect(_)
                | Output::Alias { .. }
                | Output::TrunkConnected { .. }
                | Output::TrunkPresent { .. }
                | Output::TargetPresent { .. }
                | Output::TargetGone { .. }
                | Output::TrunksMoved
                | Output::Registration { .. }
                | Output::LookUp(_)
                | Output::NotFound { .. } => {}
                Output::Bindings { .. } => panic!("nobody registers here"),
                Output::WrongPassword(report) => panic!("nobody has a password here: {report:?}"),
                Output::Refused(_) => {}
                Output::Unusable { fault, .. } => panic!("nobody describes itself so: {fault}"),
            }
        }
    }

    fn put(&mut self, to: usize, bytes: Vec<u8>) {
        if self.weather.protocol == Protocol::Tcp {
            self.order += 1;
            self.wire.insert((self.now.mono + Duration::from_millis(20), self.order), (to, bytes));
            return;
        }
        let copies = match self.draw(100) {
            roll if roll < self.weather.loss => 0,
            roll if roll < self.weather.loss + self.weather.repeat => 2,
            _ => 1,
        };
        for _ in 0..copies {
            self.order += 1;
            let delay = Duration::from_millis(1 + self.draw(self.weather.jitter_ms));
            self.wire.insert((self.now.mono + delay, self.order), (to, bytes.clone()));
        }
    }

    fn command(&mut self, side: usize, command: LegCommand) {
        let now = self.now;
        self.agents[side].handle_command(command, now);
        self.drain(side);
    }

    /// What a B2BUA does, and what must never happen.
    fn react(&mut self, side: usize, event: LegEvent) {
        let (leg, next) = match &event {
            LegEvent::Incoming { leg, .. } => {
                assert!(self.legs[side].insert(*leg, Course::Begun).is_none(), "{leg:?} twice");
                return;
            }
            LegEvent::Progress { leg, .. } | LegEvent::AskToAnswerRefused { leg, .. } => {
                (*leg, Course::Begun)
            }
            LegEvent::Answered { leg, .. }
            | LegEvent::Confirmed { leg, .. }
            | LegEvent::Offered { leg, .. } => (*leg, Course::Talking),
            LegEvent::OfferAnswered { leg, .. }
            | LegEvent::OfferRefused { leg, .. }
            | LegEvent::Referred { leg, .. } => (*leg, Course::Talking),
            LegEvent::Dialled { leg, .. } => (*leg, Course::Talking),
            LegEvent::Redirected { .. } => panic!("nobody redirects here"),
            LegEvent::Refused { leg, .. }
            | LegEvent::Failed { leg, .. }
            | LegEvent::Ended { leg, .. } => (*leg, Course::Over),
            LegEvent::Located { .. }
            | LegEvent::ConnectedIdentity { .. }
            | LegEvent::TrunkLocated { .. }
            | LegEvent::Registered { .. } => return,
        };
        let was = self.legs[side].insert(leg, next);
        assert!(matches!(was, Some(Course::Begun | Course::Talking)), "{event:?} after {was:?}");
        assert!(
            !matches!(
                (was, &event),
                (
                    Some(Course::Talking),
                    LegEvent::Refused { .. }
                        | LegEvent::Failed { .. }
                        | LegEvent::Progress { .. }
                        | LegEvent::AskToAnswerRefused { .. }
                )
            ),
            "{event:?} after {was:?}"
        );
        if matches!(event, LegEvent::Offered { .. }) {
            self.command(side, LegCommand::AnswerOffer { leg, media: SDP.into() });
        }
    }

    fn act(&mut self, step: &Step) {
        let side = step.side;
        let alive = self.legs[side].iter().filter(|(_, course)| **course != Course::Over);
        let alive: Vec<LegId> = alive.map(|(leg, _)| *leg).collect();
        let Some(&leg) = alive.get(step.which % alive.len().max(1)) else {
            return self.call(side);
        };
        let media: Vec<u8> = SDP.into();
        match step.deed {
            Deed::Call => self.call(side),
            Deed::Ring => {
                self.command(side, LegCommand::Provisional { leg, status: 180, media: None })
            }
            Deed::Accept => self.command(side, LegCommand::Accept { leg, media }),
            Deed::Offer => self.command(side, LegCommand::Offer { leg, media }),
            Deed::AskToAnswer => self.command(side, LegCommand::AskToAnswer { leg }),
            Deed::Reject if leg.0 % 2 == 0 && self.legs[side][&leg] == Course::Begun => {
                // Accepted and not yet confirmed looks the same from here: then a rejection is
                // nothing.
                self.command(side, LegCommand::Reject { leg, status: 486 });
            }
            Deed::Reject | Deed::Hangup => self.hang_up(side, leg),
        }
    }

    fn call(&mut self, side: usize) {
        let leg = LegId(self.next_leg);
        self.next_leg += 2;
        self.legs[side].insert(leg, Course::Begun);
        let to = Destination::Trunk { name: "other".to_owned(), number: Number::from("100") };
        self.command(
            side,
            LegCommand::Invite {
                leg,
                to,
                from: caller(),
                offer: SDP.into(),
                auto_answer: false,
                swallow_digits: false,
                timeout: Duration::from_secs(25),
                max_forwards: 70,
                passed: Vec::new(),
                user_data: Default::default(),
                is_secure: false,
                reasons: Default::default(),
            },
        );
    }

    fn hang_up(&mut self, side: usize, leg: LegId) {
        self.command(side, LegCommand::Hangup { leg, reason: None });
        self.legs[side].insert(leg, Course::Over);
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            let timers = self.agents.iter().filter_map(UserAgent::poll_timeout).min();
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let Some(next) = [timers, arrival].into_iter().flatten().min().filter(|at| *at <= end)
            else {
                break;
            };
            self.now = self.now + next.saturating_duration_since(self.now.mono);
            while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= next) {
                let (to, bytes) = entry.remove();
                self.deliver(to, &bytes);
            }
            for side in 0..2 {
                let now = self.now;
                self.agents[side].handle_timeout(now);
                self.drain(side);
            }
        }
        self.now = self.now + end.saturating_duration_since(self.now.mono);
    }

    fn deliver(&mut self, to: usize, bytes: &[u8]) {
        let flow = Flow {
            protocol: self.weather.protocol,
            local: address(HOMES[to]),
            peer: address(HOMES[1 - to]),
            connection: ConnectionId::NONE,
        };
        let now = self.now;
        self.agents[to].handle_datagram(flow, bytes, now);
        self.drain(to);
    }

    fn play(&mut self, steps: &[Step]) {
        for step in steps {
            let at = self.now.mono + Duration::from_millis(step.after_ms);
            self.run_until(at);
            self.act(step);
        }
    }
}

fn weather() -> impl Strategy<Value = Weather> {
    let wet = (any::<u64>(), 0..30u64, 0..20u64, 1..900u64);
    (wet, prop::bool::weighted(0.8)).prop_map(|((seed, loss, repeat, jitter_ms), udp)| Weather {
        seed,
        loss,
        repeat,
        jitter_ms,
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let deed = prop_oneof![
        3 => Just(Deed::Call),
        3 => Just(Deed::Ring),
        5 => Just(Deed::Accept),
        1 => Just(Deed::Reject),
        5 => Just(Deed::Offer),
        1 => Just(Deed::AskToAnswer),
        2 => Just(Deed::Hangup),
    ];
    let step =
        (prop_oneof![Just(0u64), 0..200u64, 0..5000u64, 0..200_000u64], 0..2usize, deed, 0..8usize);
    let step = step.prop_map(|(after_ms, side, deed, which)| Step { after_ms, side, deed, which });
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_call_reaches_a_sound_end_and_nothing_is_left_over(
        weather in weather(), steps in steps()
    ) {
        let mut world = World::new(weather);
        world.play(&steps);
        for side in 0..2 {
            let alive: Vec<LegId> = world.legs[side]
                .iter()
                .filter(|(_, course)| **course != Course::Over)
                .map(|(leg, _)| *leg)
                .collect();
            for leg in alive {
                world.hang_up(side, leg);
            }
        }
        let end = world.now.mono + Duration::from_secs(600);
        world.run_until(end);
        prop_assert!(world.wire.is_empty());
        for agent in &world.agents {
            prop_assert!(agent.is_idle(), "{agent:#?}");
        }
    }

    /// Whichever side hangs up, the other hears of it, though a fifth of everything is lost.
    #[test]
    fn an_end_on_one_side_is_an_end_on_the_other(
        seed in any::<u64>(), side in 0..2usize, at_ms in 0..70_000u64
    ) {
        let mut world = World::new(Weather {
            seed,
            loss: 20,
            repeat: 10,
            jitter_ms: 300,
            protocol: Protocol::Udp,
        });
        world.call(0);
        let soon = world.now.mono + Duration::from_secs(8);
        world.run_until(soon);
        if let Some(&leg) = world.legs[1].keys().next() {
            world.command(1, LegCommand::Accept { leg, media: SDP.into() });
        }
        let later = world.now.mono + Duration::from_millis(at_ms);
        world.run_until(later);
        if let Some((&leg, _)) =
            world.legs[side].iter().find(|(_, course)| **course != Course::Over)
        {
            world.hang_up(side, leg);
        }
        let end = world.now.mono + Duration::from_secs(400);
        world.run_until(end);
        for side in 0..2 {
            prop_assert!(
                world.legs[side].values().all(|course| *course == Course::Over),
                "{:?}",
                world.legs
            );
            prop_assert!(world.agents[side].is_idle());
        }
    }
}
