//! Software phones for demo, tests and benches, built on `rsip` so that the far side of the wire is not our own parser.
