//! Every test of Undertone that needs more than one room. One program: modules are named by behaviour.

mod allocation;
mod attacks;
mod bayeux;
mod clients;
mod contract;
mod corpus;
mod crash;
mod demo;
mod desk;
mod differential;
mod disorder;
mod examples;
mod floor_plan;
mod golden;
mod interop;
mod media;
mod phones;
mod refused;
mod rest;
mod scenarios;
mod sip_backend;
mod sip_messages;
mod store;
mod support;
mod telemetry;
mod torture;
