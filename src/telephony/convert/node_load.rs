//! How busy a backend is, on the wire.

use crate::model::NodeLoad;
use crate::telephony::proto;

pub(in crate::telephony) fn wire_load(load: &NodeLoad) -> proto::NodeLoad {
    let NodeLoad { calls, max_calls, is_draining } = *load;
    proto::NodeLoad { calls, max_calls: max_calls.unwrap_or_default(), draining: is_draining }
}

pub(in crate::telephony) fn load(wire: &proto::NodeLoad) -> NodeLoad {
    let proto::NodeLoad { calls, max_calls, draining } = *wire;
    let max_calls = Some(max_calls).filter(|most| *most > 0);
    NodeLoad { calls, max_calls, is_draining: draining }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_on_the_wire_what_it_was_and_a_limit_of_zero_is_none() {
        for max_calls in [None, Some(1), Some(u32::MAX)] {
            for is_draining in [false, true] {
                let told = NodeLoad { calls: 3, max_calls, is_draining };
                assert_eq!(load(&wire_load(&told)), told);
            }
        }
        assert_eq!(load(&proto::NodeLoad::default()), NodeLoad::default());
    }
}
