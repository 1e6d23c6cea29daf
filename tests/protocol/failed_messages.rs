//! Failed messages: attempts, generations, operator actions and retention.
//!
//! Each operator action is one transaction. A retry is due at once. Not modelled: delays, reasons, the history of
//! attempts, bulk actions, `--overtaken`, an edit to another key. Retention is assumed to be longer than any message
//! is outstanding. It may remove a resolved or discarded row if no copy of it is outstanding. It may remove an inbox
//! row if no delivery of generation 0 is outstanding, every failed message of this id is resolved (an edited one may
//! be dead because of the inbox row), and the sender does not send it again later. These are the conditions under
//! which a message takes effect once.

use crate::{
    config::{Config, Fault},
    state::{Body, Marker, Message, Row, State, Status},
};

/// An operator action on one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Retry,
    Discard,
    Restore,
    /// Opens the editor on a dead row.
    ShowForEdit,
    /// Saves the body, if the row is still dead and of the generation that was shown.
    SaveEdit,
}

impl State {
    fn position_of(&self, message: Message) -> Option<usize> {
        self.failed.iter().position(|row| row.id == message.id && row.body == message.body)
    }

    /// Records a failed attempt. `permanent`: no retry can help.
    pub(crate) fn record(&mut self, config: &Config, message: Message, permanent: bool) {
        self.history.failed.add(message.id);
        let index = self.position_of(message).unwrap_or(self.failed.len());
        if index == self.failed.len() {
            let (number, status) = (self.next_row, Status::Retrying);
            let Message { id, body, .. } = message;
            self.next_row += 1;
            let overtaken = false;
            self.failed.push(Row {
                number,
                id,
                body,
                status,
                attempts: 0,
                generation: 0,
                published: false,
                overtaken,
            });
        } else {
            let row = &mut self.failed[index];
            let retrying = row.status == Status::Retrying;
            let dropped = match message.marker {
                // Only an open row covers a message of generation 0: its retry will handle the message.
                None => row.is_open() || (config.fault == Fault::OldRowDropsMessage && message.redelivered),
                Some(marker) => {
                    row.generation != marker.generation
                        || !retrying && config.fault != Fault::NoGenerationFence
                }
            };
            if dropped {
                return;
            }
            if message.marker.is_none() {
                row.attempts = 0;
            }
        }
        let row = &mut self.failed[index];
        row.attempts += 1;
        row.generation += 1;
        row.published = false;
        row.status =
            if permanent || row.attempts >= config.max_attempts { Status::Dead } else { Status::Retrying };
        self.release(config);
    }

    /// The number of the row of a message; one without a row comes after all others.
    fn turn(&self, message: Message) -> u8 {
        self.position_of(message).map_or(u8::MAX, |index| self.failed[index].number)
    }

    /// Whether an earlier message with the key is open.
    pub(crate) fn must_wait(&self, config: &Config, message: Message) -> bool {
        let turn = self.turn(message);
        config.one_key
            && config.fault != Fault::NothingWaits
            && self.failed.iter().any(|row| row.is_open() && row.number < turn)
    }

    pub(crate) fn is_discarded(&self, message: Message) -> bool {
        self.position_of(message).is_some_and(|index| self.failed[index].status == Status::Discarded)
    }

    /// Whether a redelivered message is dead, and a later command was handled since.
    pub(crate) fn stays_overtaken(&self, message: Message) -> bool {
        let row = self.position_of(message).map(|index| self.failed[index]);
        message.redelivered && row.is_some_and(|row| row.status == Status::Dead && row.overtaken)
    }

    /// A message must wait. One that is recorded as open already, and is not the current copy, changes nothing.
    pub(crate) fn record_waiting(&mut self, message: Message) {
        let Some(index) = self.position_of(message) else {
            let (number, Message { id, body, .. }) = (self.next_row, message);
            self.next_row += 1;
            let (status, overtaken) = (Status::Waiting, false);
            let row =
                Row { number, id, body, status, attempts: 0, generation: 1, published: false, overtaken };
            return self.failed.push(row);
        };
        let row = &mut self.failed[index];
        if message.marker.is_some() || !row.is_open() {
            row.status = Status::Waiting;
            row.generation += 1;
            row.published = false;
        }
    }

    /// A command was handled: earlier dead or discarded messages with its key are overtaken.
    pub(crate) fn overtake(&mut self, config: &Config, message: Message) {
        let turn = self.turn(message);
        let ended = |row: &&mut Row| matches!(row.status, Status::Dead | Status::Discarded);
        if config.one_key {
            for row in self.failed.iter_mut().filter(ended).filter(|row| row.number < turn) {
                row.overtaken = true;
            }
        }
    }

    /// The first open message is tried, if it waits.
    fn release(&mut self, config: &Config) {
        let first = self.failed.iter_mut().filter(|row| row.is_open()).min_by_key(|row| row.number);
        if let Some(row) = first
            && row.status == Status::Waiting
            && config.fault != Fault::NothingIsReleased
        {
            row.status = Status::Retrying;
            row.generation += 1;
        }
    }

    /// A message was handled: its failed message is resolved, even a discarded one.
    pub(crate) fn resolve(&mut self, config: &Config, message: Message) {
        let Some(index) = self.position_of(message) else { return };
        let status = &mut self.failed[index].status;
        if *status == Status::Discarded {
            if config.fault == Fault::NoGenerationFence {
                return;
            }
            self.history.handled_after_discard.add(message.id);
        }
        *status = Status::Resolved;
        self.release(config);
    }

    /// Whether an operation would change the row.
    pub(crate) fn allows(&self, config: &Config, operation: Operation, row: Row) -> bool {
        let overtaken = row.overtaken && config.fault != Fault::OvertakenIsRetried;
        match operation {
            Operation::Retry => {
                (row.status == Status::Dead && !overtaken)
                    || (row.status == Status::Retrying && row.published)
            }
            Operation::Discard => row.status == Status::Dead || row.is_open(),
            Operation::Restore => row.status == Status::Discarded,
            Operation::ShowForEdit => row.status == Status::Dead && !overtaken && self.shown.is_none(),
            Operation::SaveEdit => self.shown.is_some_and(|shown| shown.row == row.number),
        }
    }

    pub(crate) fn operate(&mut self, config: &Config, operation: Operation, index: usize) {
        let handled = self.inbox[usize::from(self.failed[index].id)] == Some(self.failed[index].body);
        let row = &mut self.failed[index];
        match operation {
            // Another copy was handled; the retry is skipped.
            Operation::Retry if handled => row.status = Status::Resolved,
            Operation::Retry if row.status == Status::Retrying => row.published = false,
            Operation::Retry => retry(row),
            Operation::Discard => {
                row.status = Status::Discarded;
                self.record_discard(index);
                self.release(config);
            }
            Operation::Restore => {
                row.status = Status::Dead;
                self.history.discarded.remove(row.id);
            }
            Operation::ShowForEdit => {
                self.shown = Some(Marker { row: row.number, generation: row.generation });
            }
            Operation::SaveEdit => self.save_edit(index),
        }
    }

    fn save_edit(&mut self, index: usize) {
        let Row { number, id, status, generation, .. } = self.failed[index];
        let shown = self.shown.take();
        // The key is unique: a second row with this id and body is impossible.
        let collides = self
            .failed
            .iter()
            .any(|other| other.number != number && other.id == id && other.body == Body::Edited);
        if status == Status::Dead && shown == Some(Marker { row: number, generation }) && !collides {
            self.failed[index].body = Body::Edited;
            retry(&mut self.failed[index]);
        }
    }

    fn record_discard(&mut self, index: usize) {
        let id = self.failed[index].id;
        let other = self.failed.iter().filter(|row| row.id == id).count() > 1;
        if !other && !self.effects.contains(&id) && !self.first_delivery_outstanding(id) {
            self.history.discarded.add(id);
        }
    }

    /// Whether retention may remove the inbox row of a message.
    pub(crate) fn may_remove_inbox_row(&self, id: u8) -> bool {
        self.inbox[usize::from(id)].is_some()
            && !self.first_delivery_outstanding(id)
            && !self.failed.iter().any(|row| row.id == id && row.status != Status::Resolved)
    }

    /// Whether retention may remove a failed message.
    pub(crate) fn may_remove(&self, config: &Config, row: Row) -> bool {
        matches!(row.status, Status::Resolved | Status::Discarded)
            && (config.fault == Fault::RetentionIgnoresCopies || !self.copy_outstanding(row.number))
    }

    pub(crate) fn remove_inbox_row(&mut self, id: u8) {
        self.inbox[usize::from(id)] = None;
        self.history.removed.add(id);
    }

    pub(crate) fn remove_row(&mut self, index: usize) {
        let row = self.failed.remove(index);
        self.history.removed.add(row.id);
        self.history.discarded.remove(row.id);
        if self.shown.is_some_and(|shown| shown.row == row.number) {
            self.shown = None;
        }
    }
}

/// Dead to retrying, as a new generation: earlier copies are not handled any more.
fn retry(row: &mut Row) {
    row.status = Status::Retrying;
    row.generation += 1;
    row.attempts = 0;
    row.published = false;
}
