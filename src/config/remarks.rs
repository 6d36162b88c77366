//! What is right in a configuration and gives something up.

use super::reader::Finding;
use super::sections::Sections;
use crate::sip::config::HandedOn;

/// What is given up, with its place.
pub(super) fn of(sections: &Sections) -> Vec<Finding> {
    let trunks = sections.trunks.iter().enumerate();
    let refusing = trunks.filter(|(_, (trunk, _))| trunk.handed_on == HandedOn::Refuse);
    let remark = |(place, (trunk, _)): (usize, &(crate::sip::config::Trunk, _))| {
        let is_behind = |via: Option<&str>| via == Some(trunk.name.as_str());
        let devices = sections.devices.iter();
        let devices = devices.filter(|(account, _)| is_behind(account.via.as_deref())).count();
        let ranged = sections.ranges.iter().filter(|range| is_behind(Some(&range.via)));
        let ranged: usize = ranged.map(|range| range.devices().map_or(0, |it| it.len())).sum();
        Finding {
            path: ["sip", "trunk", &place.to_string(), "handed_on"].map(str::to_owned).to_vec(),
            message: format!(
                "nobody is coached, and nobody coaches, at the {} devices behind '{}': it may hand \
                 a call on without saying so",
                devices + ranged,
                trunk.name
            ),
        }
    };
    refusing.map(remark).collect()
}
