//! Where the thread works: models that are awake, and the memory of what they read and write.

use super::{Shape, Writing};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::infer::engine::Engine;
use crate::infer::generator::{self, Generator};
use crate::infer::scheduler::Limits;
use crate::model::Model;

pub(super) struct Bench<'m> {
    dev: &'m Device,
    pub models: Vec<&'m Model>,
    context: usize,
    writing: Option<&'m Writing>,
    pub engine: Engine<'m>,
    /// Made for the first text, and kept.
    generator: Option<Generator<'m>>,
}

impl<'m> Bench<'m> {
    /// # Errors
    /// When the memory is not there.
    pub fn new(
        dev: &'m Device,
        models: Vec<&'m Model>,
        limits: Limits,
        shape: Shape,
        writing: Option<&'m Writing>,
    ) -> Result<Bench<'m>> {
        let engine = Engine::new(dev, &models, limits)?;
        Ok(Bench { dev, models, context: shape.context, writing, engine, generator: None })
    }

    /// The generator.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn generator(&mut self) -> Result<&mut Generator<'m>> {
        if self.generator.is_none() {
            let writing = self.writing.ok_or_else(|| Error::usage("this service was not started to write text"))?;
            let together = generator::Shape { sequences: writing.sequences, context: self.context };
            let made = Generator::with_pages(self.dev, &self.models, together, &writing.stop, writing.pages)?;
            self.generator = Some(made);
        }
        Ok(self.generator.as_mut().expect("it was made"))
    }

    /// Models, what reads, and what writes, where it was made.
    pub fn parts(&mut self) -> (&[&'m Model], &mut Engine<'m>, Option<&mut Generator<'m>>) {
        (&self.models, &mut self.engine, self.generator.as_mut())
    }

    /// Forgets everything that is half done.
    pub fn clear(&mut self) {
        self.engine.clear();
        if let Some(generator) = &mut self.generator {
            generator.clear();
        }
    }
}
