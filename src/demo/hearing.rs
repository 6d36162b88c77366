//! The table "who hears whom", measured from what each phone received.

use super::timeline::Timeline;
use crate::phone::Phone;
use serde_json::{Value, json};
use std::time::Instant;

/// Louder than this is heard. The phones speak at −16 dBFS.
const HEARD: f32 = -30.0;
/// Softer than this is silence; the loudest 100 ms count.
const SILENT: f32 = -50.0;

/// The three people of the demo, each with a tone of his own, in Hz. None is a multiple of 50, nor near a harmonic of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Person {
    Customer,
    Agent,
    Supervisor,
}

impl Person {
    pub(super) const ALL: [Person; 3] = [Person::Customer, Person::Agent, Person::Supervisor];

    pub(super) fn name(self) -> &'static str {
        match self {
            Person::Customer => "customer",
            Person::Agent => "agent",
            Person::Supervisor => "supervisor",
        }
    }

    pub(super) fn hz(self) -> f32 {
        match self {
            Person::Customer => 437.0,
            Person::Agent => 613.0,
            Person::Supervisor => 1021.0,
        }
    }
}

/// The supervisor's part in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Absent,
    ListenIn,
    Coach,
    BargeIn,
}

impl Part {
    /// Who hears whom in each activity.
    fn expects(self, listener: Person, speaker: Person) -> bool {
        match (listener, speaker) {
            (Person::Customer, Person::Agent) | (Person::Agent, Person::Customer) => true,
            (Person::Customer, Person::Supervisor) => self == Part::BargeIn,
            (Person::Agent, Person::Supervisor) => matches!(self, Part::Coach | Part::BargeIn),
            (Person::Supervisor, _) => self != Part::Absent,
            (Person::Customer, Person::Customer) | (Person::Agent, Person::Agent) => false,
        }
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
    pub(super) fn measure(name: &str, part: Part, phones: [&Phone; 3], since: Instant, until: Instant) -> Phase {
        let mut cells = Vec::new();
        for (phone, listener) in phones.into_iter().zip(Person::ALL) {
            for speaker in Person::ALL.into_iter().filter(|speaker| *speaker != listener) {
                let level = phone.heard_between(speaker.hz(), since, until);
                let right = match part.expects(listener, speaker) {
                    true => level > HEARD,
                    false => level < SILENT && phone.peak_between(speaker.hz(), since, until) < SILENT,
                };
                cells.push(Cell {
                    listener,
                    speaker,
                    level,
                    right,
                });
            }
        }
        Phase { name: name.into(), cells }
    }

    pub(super) fn is_right(&self) -> bool {
        self.cells.iter().all(|cell| cell.right)
    }

    pub(super) fn json(&self) -> Value {
        let mut hears = json!({});
        for cell in &self.cells {
            hears[cell.listener.name()][cell.speaker.name()] = json!((f64::from(cell.level) * 10.0).round() / 10.0);
        }
        json!({"name": self.name, "hears": hears})
    }
}

/// Prints the table: a column per listener and speaker.
pub(super) fn show(phases: &[Phase], timeline: &Timeline) {
    timeline.title("Who hears whom: level of each tone in what was received, dBFS (every phone speaks at -16; · is silence)");
    timeline.text("                                   customer hears        agent hears           supervisor hears");
    timeline.text("                                   agent   supervisor    customer supervisor   customer   agent");
    for phase in phases {
        let mut line = format!("  {:<31}", phase.name);
        for (cell, width) in phase.cells.iter().zip([7, 13, 11, 13, 11, 8]) {
            let level = if cell.level < SILENT {
                "·".into()
            } else {
                format!("{:.1}", cell.level)
            };
            line += &format!("{:>width$}", if cell.right { level } else { format!("✗{level}") });
        }
        match phase.is_right() {
            true => timeline.good(&format!("{line}   ✓")),
            false => timeline.bad(&format!("{line}   wrong")),
        }
    }
}
