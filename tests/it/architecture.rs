//! The rules of `docs/architecture.md` that a program can check: the layers and their imports, cycles, sizes and words.
//!
//! Each check has a test with violations, which shows that it can find them.

mod cycles;
mod imports;
mod layers;
mod pairing;
mod shape;
mod source;
mod words;
