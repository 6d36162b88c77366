//! The hearing table of the demo, measured from what each phone received.

use super::timeline::Timeline;
use crate::demo::phone::Phone;
use serde_json::{Value, json};
use std::time::Instant;

/// Louder than this is heard. The phones speak at −16 dBFS.
const HEARD: f32 = -30.0;
/// Softer than this is silence; the loudest 100 ms count.
const SILENT: f32 = -50.0;

/// The people of the demo, each with a tone of its own, in Hz. None is a multiple of 50, nor near a
/// harmonic of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Person {
    Customer,
    Agent,
    Supervisor,
    /// A second agent, the colleague.
    Colleague,
    /// A second supervisor on the same call.
    Second,
}

impl Person {
    pub(super) fn name(self) -> &'static str {
        match self {
            Person::Customer => "customer",
            Person::Agent => "agent",
            Person::Supervisor => "supervisor",
            Person::Colleague => "colleague",
            Person::Second => "second",
        }
    }

    pub(super) fn hz(self) -> f32 {
        match self {
            Person::Customer => 437.0,
            Person::Agent => 613.0,
            Person::Supervisor => 1021.0,
            Person::Colleague => 787.0,
            Person::Second => 1433.0,
        }
    }
}

/// The supervisor's part in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeardPart {
    Absent,
    ListenIn,
    Coach,
    BargeIn,
}

/// The speakers that each listener is to hear; what is not named is silence.
#[derive(Clone, Debug)]
pub(super) struct Scene(Vec<(Person, Vec<Person>)>);

impl Scene {
    /// The customer with one agent, and the supervisor's part.
    pub(super) fn of(agent: Person, part: HeardPart) -> Scene {
        let (customer, supervisor) = (Person::Customer, Person::Supervisor);
        let (to_customer, to_agent, to_supervisor) = match part {
            HeardPart::Absent => (vec![agent], vec![customer], vec![]),
            HeardPart::ListenIn => (vec![agent], vec![customer], vec![customer, agent]),
            HeardPart::Coach => (vec![agent], vec![customer, supervisor], vec![customer, agent]),
            HeardPart::BargeIn => {
                (vec![agent, supervisor], vec![customer, supervisor], vec![customer, agent])
            }
        };
        Scene(vec![(customer, to_customer), (agent, to_agent), (supervisor, to_supervisor)])
    }

    /// Each listener with the speakers it hears.
    pub(super) fn new(hears: &[(Person, &[Person])]) -> Scene {
        Scene(hears.iter().map(|(listener, speakers)| (*listener, speakers.to_vec())).collect())
    }

    fn expects(&self, listener: Person, speaker: Person) -> bool {
        self.0.iter().any(|(hearer, heard)| *hearer == listener && heard.contains(&speaker))
    }
}

/// One cell: how loud a listener heard a speaker.
struct Cell {
    listener: Person,
    speaker: Person,
    level: f32,
    right: bool,
}

/// A phase as it was heard.
pub(super) struct Phase {
    name: String,
    cells: Vec<Cell>,
}

impl Phase {
    /// Measures all cells in a window in which nothing changed.
    pub(super) fn measure(
        name: &str,
        scene: &Scene,
        people: &[(Person, &Phone)],
        since: Instant,
        until: Instant,
    ) -> Phase {
        let mut cells = Vec::new();
        for &(listener, phone) in people {
            for speaker in
                people.iter().map(|(person, _)| *person).filter(|speaker| *speaker != listener)
            {
                let level = phone.heard_between(speaker.hz(), since, until);
                let right = match scene.expects(listener, speaker) {
                    true => level > HEARD,
                    false => {
                        level < SILENT && phone.peak_between(speaker.hz(), since, until) < SILENT
                    }
                };
                cells.push(Cell { listener, speaker, level, right });
            }
        }
        Phase { name: name.into(), cells }
    }

    pub(super) fn is_right(&self) -> bool {
        self.cells.iter().all(|cell| cell.right)
    }

    /// In a line: which party hears which, as it was measured.
    pub(super) fn tell(&self, timeline: &Timeline) {
        let mut listeners: Vec<(Person, Vec<&str>)> = Vec::new();
        for cell in &self.cells {
            if listeners.last().is_none_or(|(listener, _)| *listener != cell.listener) {
                listeners.push((cell.listener, Vec::new()));
            }
            if cell.level > HEARD
                && let Some((_, heard)) = listeners.last_mut()
            {
                heard.push(cell.speaker.name());
            }
        }
        let hears = |(listener, heard): &(Person, Vec<&str>)| {
            let heard = if heard.is_empty() { "nobody".to_owned() } else { heard.join(", ") };
            format!("{} ◀ {heard}", listener.name())
        };
        let hears = listeners.iter().map(hears).collect::<Vec<_>>().join("   ");
        let is_right = if self.is_right() { "✓" } else { "wrong" };
        let line = format!("          Heard   {}: {hears}   {is_right}", self.name);
        match self.is_right() {
            true => timeline.good(&line),
            false => timeline.bad(&line),
        }
    }

    pub(super) fn json(&self) -> Value {
        let mut hears = json!({});
        for cell in &self.cells {
            hears[cell.listener.name()][cell.speaker.name()] =
                json!((f64::from(cell.level) * 10.0).round() / 10.0);
        }
        json!({"name": self.name, "hears": hears})
    }
}

/// Prints the table: a column per listener and speaker.
pub(super) fn show(phases: &[Phase], timeline: &Timeline) {
    timeline.title(
        "Who hears whom: level of each tone in what was received, dBFS (every phone \
         speaks at -16; · is silence)",
    );
    let (mut listeners, mut speakers) = (" ".repeat(NAME), " ".repeat(NAME));
    let mut last = None;
    for cell in phases.first().into_iter().flat_map(|phase| &phase.cells) {
        if last.replace(cell.listener) != Some(cell.listener) {
            listeners = format!(
                "{listeners:<width$}   {} hears",
                cell.listener.name(),
                width = speakers.len()
            );
        }
        speakers += &format!("{:>width$}", cell.speaker.name(), width = width(cell));
    }
    timeline.text(&listeners);
    timeline.text(&speakers);
    for phase in phases {
        let mut line = format!("{:<NAME$}", format!("  {}", phase.name));
        for cell in &phase.cells {
            let level =
                if cell.level < SILENT { "·".into() } else { format!("{:.1}", cell.level) };
            line += &format!(
                "{:>width$}",
                if cell.right { level } else { format!("✗{level}") },
                width = width(cell)
            );
        }
        match phase.is_right() {
            true => timeline.good(&format!("{line}   ✓")),
            false => timeline.bad(&format!("{line}   wrong")),
        }
    }
}

/// Columns of a phase's name.
const NAME: usize = 33;

fn width(cell: &Cell) -> usize {
    cell.speaker.name().len().max(5) + 3
}
