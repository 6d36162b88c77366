//! Every test of Undertone that needs more than one room. One program: modules are named by behaviour.

mod floor_plan;
mod phones;
