//! The rules of `docs/architecture.md` that a program can check: the layers and their imports, cycles, sizes and words.
//!
//! Each check is tested on violations that are made up, so that a check which finds nothing can be trusted.

mod cycles;
mod imports;
mod layers;
mod shape;
mod source;
mod words;
