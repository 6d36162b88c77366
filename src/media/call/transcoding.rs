//! The transcoder of a leg that hears one speaker, and those it may need again.

use super::*;

/// A transcoder, and the speaker that it holds the sound of.
pub(super) type SpeakerTranscoder = (LegId, Box<Transcoder>);

/// Transcoders for the codecs of the one speaker that a leg hears: going back to one of them takes
/// no memory.
#[derive(Debug, Default)]
pub(super) struct SpareTranscoders(Vec<SpeakerTranscoder>);

impl SpareTranscoders {
    /// Has `current` turn what the one speaker speaks into the codec `to`, where tables of G.711 do
    /// not do it; `None`: the leg hears nobody alone, or nothing was agreed.
    pub(super) fn prepare(
        &mut self,
        current: &mut Option<SpeakerTranscoder>,
        speaker: Option<Speaker>,
        to: Option<Codec>,
    ) {
        let Self(spares) = self;
        let (Some(speaker), Some(to)) = (speaker, to) else {
            *current = None;
            *spares = Vec::new();
            return;
        };
        let from = speaker.spoken.codec();
        let is_needed = from != to && from.reaches(to) && !(from.is_law() && to.is_law());
        let is = |(name, transcoder): &SpeakerTranscoder| {
            *name == speaker.name && transcoder.is(from, to)
        };
        if !(is_needed && current.as_ref().is_some_and(is)) {
            spares.extend(current.take());
        }
        spares.retain(|(name, transcoder)| {
            *name == speaker.name && speaker.spoken.may_need(transcoder, to)
        });
        if !is_needed || current.is_some() {
            return;
        }
        let spare = spares.iter().position(is).map(|at| spares.swap_remove(at));
        *current = Some(match spare {
            Some((name, mut transcoder)) => {
                transcoder.restart();
                (name, transcoder)
            }
            None => (speaker.name, Box::new(Transcoder::new(from, to))),
        });
    }
}
