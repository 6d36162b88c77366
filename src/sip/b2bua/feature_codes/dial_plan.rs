//! Which dialled strings are feature codes, and what the keys of a monitoring supervisor's keypad
//! mean.

use crate::model::{Activity, FeatureCode, Mode, Number, Scope};
use serde::Deserialize;

/// What supervisors may dial at their phones.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureCodeConfig {
    /// There are feature codes.
    pub enabled: bool,
    /// Dialled before a number: Coach. Empty: there is no code for it.
    pub coach: String,
    /// Dialled before a number: ListenIn. Empty: there is no code for it.
    pub listen: String,
    /// Dialled before a number: BargeIn. Empty: there is no code for it.
    pub barge: String,
    /// Dialled alone: the monitor ends. Empty: there is no code for it.
    pub stop: String,
    /// The keys by which a supervisor on a call goes over to ListenIn, Coach and BargeIn, in this
    /// order. Empty: no key does anything.
    pub digits: String,
    /// How long a monitor lasts that was dialled.
    pub mode: Mode,
    /// What it follows.
    pub scope: Scope,
}

impl Default for FeatureCodeConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            coach: "*81".to_owned(),
            listen: "*80".to_owned(),
            barge: "*82".to_owned(),
            stop: "*83".to_owned(),
            digits: "456".to_owned(),
            mode: Mode::NextCall,
            scope: Scope::Call,
        }
    }
}

/// What a dialled string asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sip::b2bua) enum DialledCode {
    Start(Activity, Number),
    Stop,
    /// The number is missing.
    Incomplete,
}

/// What the keys of `digits` mean, in order.
const KEYS: [Activity; 3] = [Activity::ListenIn, Activity::Coach, Activity::BargeIn];

impl FeatureCodeConfig {
    /// Every code that there is, by its key of the configuration.
    pub fn codes(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.meanings().map(|(key, code, _)| (key, code))
    }

    /// The same, with the activity that each begins; `None`: it ends the monitor.
    fn meanings(&self) -> impl Iterator<Item = (&'static str, &str, Option<Activity>)> {
        let codes = [
            ("coach", &*self.coach, Some(Activity::Coach)),
            ("listen", &*self.listen, Some(Activity::ListenIn)),
            ("barge", &*self.barge, Some(Activity::BargeIn)),
            ("stop", &*self.stop, None),
        ];
        codes.into_iter().filter(|(_, code, _)| !code.is_empty())
    }

    /// What a dialled string asks for; `None`: it is no feature code. A star between code and
    /// number, and a hash at the end, are what some phones and some users put there.
    pub(in crate::sip::b2bua) fn read(&self, dialled: &str) -> Option<DialledCode> {
        if !self.enabled {
            return None;
        }
        let dialled = dialled.strip_suffix('#').unwrap_or(dialled);
        let rest = self.meanings().filter_map(|(_, code, activity)| {
            dialled.strip_prefix(code).map(|rest| (rest, activity))
        });
        // The longest code leaves the shortest rest.
        let (rest, activity) = rest.min_by_key(|(rest, _)| rest.len())?;
        let number = rest.strip_prefix('*').unwrap_or(rest);
        match (activity, number.is_empty()) {
            (Some(activity), false) => Some(DialledCode::Start(activity, Number::from(number))),
            (Some(_), true) => Some(DialledCode::Incomplete),
            (None, is_alone) => is_alone.then_some(DialledCode::Stop),
        }
    }

    /// What is dialled for this, without the number; or the key that is pressed.
    pub(in crate::sip::b2bua) fn dialled_for(&self, code: &FeatureCode) -> String {
        let activity = match code {
            FeatureCode::Start { activity, .. } => Some(*activity),
            FeatureCode::Stop => None,
            FeatureCode::Switch { activity, .. } => {
                return self.key_for(*activity).map(String::from).unwrap_or_default();
            }
        };
        let found = self.meanings().find(|(_, _, begins)| *begins == activity);
        found.map(|(_, code, _)| code.to_owned()).unwrap_or_default()
    }

    /// The key by which a supervisor on a call asks for this.
    pub(in crate::sip::b2bua) fn key_for(&self, activity: Activity) -> Option<char> {
        self.digits.chars().find(|digit| self.key(*digit) == Some(activity))
    }

    /// Keys of a supervisor's keypad mean something.
    pub(in crate::sip::b2bua) fn has_keys(&self) -> bool {
        self.enabled && !self.digits.is_empty()
    }

    /// What a supervisor on a call asks for by this key.
    pub(in crate::sip::b2bua) fn key(&self, digit: char) -> Option<Activity> {
        let place = self.digits.chars().position(|key| key == digit).filter(|_| self.enabled)?;
        KEYS.get(place).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_with_its_number_whatever_stands_between_and_behind() {
        let config = FeatureCodeConfig { enabled: true, ..FeatureCodeConfig::default() };
        let start = |activity| Some(DialledCode::Start(activity, "5001".into()));
        for (dialled, expected) in [
            ("*815001", start(Activity::Coach)),
            ("*81*5001", start(Activity::Coach)),
            ("*805001#", start(Activity::ListenIn)),
            ("*825001", start(Activity::BargeIn)),
            ("*81", Some(DialledCode::Incomplete)),
            ("*81#", Some(DialledCode::Incomplete)),
            ("*83", Some(DialledCode::Stop)),
            ("*83#", Some(DialledCode::Stop)),
            ("*835001", None),
            ("*845001", None),
            ("815001", None),
            ("5001", None),
            ("", None),
        ] {
            assert_eq!(config.read(dialled), expected, "{dialled}");
        }
    }

    #[test]
    fn a_code_that_is_off_or_empty_is_a_number_like_any_other() {
        assert_eq!(FeatureCodeConfig::default().read("*815001"), None);
        let config = FeatureCodeConfig {
            enabled: true,
            coach: String::new(),
            ..FeatureCodeConfig::default()
        };
        assert_eq!(config.read("*815001"), None);
        assert_eq!(config.read("5001"), None);
    }

    #[test]
    fn three_keys_are_listen_coach_and_barge_and_no_other_means_anything() {
        let config = FeatureCodeConfig { enabled: true, ..FeatureCodeConfig::default() };
        let keys: String =
            "0123456789*#ABCD".chars().filter(|key| config.key(*key).is_some()).collect();
        assert_eq!(keys, "456");
        assert_eq!(config.key('4'), Some(Activity::ListenIn));
        assert_eq!(config.key('5'), Some(Activity::Coach));
        assert_eq!(config.key('6'), Some(Activity::BargeIn));
        assert_eq!(FeatureCodeConfig::default().key('5'), None);
    }
}
