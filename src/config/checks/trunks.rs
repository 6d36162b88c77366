//! What the keys of a trunk must keep together.

use super::{Checks, KEYS_CAN_BE_READ, path, plain};
use crate::config::sections::{Sections, TrunkKeys};
use crate::sip::config::{ListenAddress, Trunk, TrunkTarget};
use crate::sip::flow::Protocol;
use crate::sip::sdp::SrtpPolicy;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

impl Checks<'_> {
    pub(super) fn trunks(&mut self, sections: &Sections) {
        let mut names = BTreeMap::new();
        for (number, (trunk, keys)) in sections.trunks.iter().enumerate() {
            let first = *names.entry(trunk.name.as_str()).or_insert(number);
            let is_twice =
                first != number && self.is_known(&path(&[&"sip", &"trunk", &first, &"name"]));
            let mut wrong = |key: &'static str, message: String| {
                self.wrong(&[&"sip", &"trunk", &number, &key], message)
            };
            if !plain(&trunk.name, b"") {
                wrong("name", "may contain letters, digits and . _ -".into());
            }
            if is_twice {
                wrong("name", format!("there are two trunks '{}'", trunk.name));
            }
            if trunk.max_calls_per_second == Some(0) {
                wrong("max_calls_per_second", "must be more than 0".to_owned());
            }
            if let Some(bad) =
                trunk.prefixes.iter().find(|prefix| !prefix.is_empty() && !plain(prefix, b"+#*"))
            {
                wrong("prefixes", format!("'{bad}' is not the beginning of a number"));
            }
            let login = [keys.user.is_some(), keys.password.is_some(), keys.realm.is_some()];
            if login.contains(&true) && login.contains(&false) {
                wrong("user", "user, password and realm belong together".into());
            }
            let targets = self.targets(sections, number, keys);
            self.protection(number, trunk, &targets);
            self.logins(sections, number, keys);
            self.registration(sections, number);
        }
    }

    /// Where it is, as far as that can be read.
    fn targets(
        &mut self,
        sections: &Sections,
        number: usize,
        keys: &TrunkKeys,
    ) -> Vec<(Vec<String>, TrunkTarget)> {
        let trunk = path(&[&"sip", &"trunk", &number]);
        match (&keys.target, keys.targets.is_empty()) {
            (None, true) => self.find(trunk.clone(), "'target' is missing".to_owned()),
            (Some(_), false) => {
                let at = [trunk.as_slice(), &["targets".to_owned()]].concat();
                self.find(at, "target is there, too: one of the two".to_owned());
            }
            (None, false) | (Some(_), true) => {}
        }
        let mut targets = Vec::new();
        for (key, target) in keys.targets() {
            let at = [trunk.as_slice(), &key].concat();
            match target {
                Ok(target) => targets.push((at, target)),
                Err(error) => self.find(at, error.to_string()),
            }
        }
        for (at, target) in &targets {
            let listens = |listen: &ListenAddress| listen.protocol == target.protocol;
            if !sections.sip.listen.iter().any(listens) {
                let name = target.protocol.as_str().to_ascii_lowercase();
                let at = match target.protocol == keys.transport {
                    true => [trunk.as_slice(), &["transport".to_owned()]].concat(),
                    false => at.clone(),
                };
                self.find(at, format!("nothing in sip.listen begins with {name}:"));
            }
        }
        targets
    }

    /// Certificates, and what nobody may read.
    fn protection(&mut self, number: usize, trunk: &Trunk, targets: &[(Vec<String>, TrunkTarget)]) {
        let is_secure = |target: &TrunkTarget| target.protocol == Protocol::Tls;
        match &trunk.tls_name {
            Some(name) if !targets.iter().any(|(_, target)| is_secure(target)) => self.wrong(
                &[&"sip", &"trunk", &number, &"tls_name"],
                format!("'{name}' is a certificate's name: transport must be \"tls\""),
            ),
            Some(name) if !plain(name, b"") || name.parse::<IpAddr>().is_ok() => self.wrong(
                &[&"sip", &"trunk", &number, &"tls_name"],
                format!("'{name}' is not a domain"),
            ),
            Some(_) => {}
            None => {
                let unnamed = |(_, target): &&(Vec<String>, TrunkTarget)| {
                    is_secure(target) && target.is_address()
                };
                for (at, target) in targets.iter().filter(unnamed) {
                    let text = "is an address: tls_name must say which domain its certificate is \
                                for";
                    self.find(at.clone(), format!("'{target}' {text}"));
                }
            }
        }
        if trunk.srtp == SrtpPolicy::Required
            && !targets.iter().all(|(_, target)| is_secure(target))
            && !trunk.srtp_over_clear
        {
            self.wrong(&[&"sip", &"trunk", &number, &"srtp"], KEYS_CAN_BE_READ);
        }
    }

    fn logins(&mut self, sections: &Sections, number: usize, keys: &TrunkKeys) {
        let mut realms: BTreeSet<&str> = keys.realm.as_deref().into_iter().collect();
        let more = sections.trunk_logins.get(&number).into_iter().flatten();
        for (place, login) in more.enumerate() {
            self.unless(
                realms.insert(&login.realm),
                &[&"sip", &"trunk", &number, &"login", &place, &"realm"],
                format!("there are two logins for '{}'", login.realm),
            );
        }
    }

    fn registration(&mut self, sections: &Sections, number: usize) {
        let Some(register) = sections.trunk_registers.get(&number) else { return };
        let at = |key: &'static str| path(&[&"sip", &"trunk", &number, &"register", &key]);
        if !plain(&register.user, b"+*#") {
            self.find(at("user"), "may contain letters, digits and . _ - + * #".to_owned());
        }
        if let Some(contact) = &register.contact_user
            && !plain(contact, b"+*#")
        {
            let text = "may contain letters, digits and . _ - + * #";
            self.find(at("contact_user"), text.to_owned());
        }
        if register.password.is_none() {
            self.find(at("password"), "is missing, and password_file, too".to_owned());
        }
    }
}
