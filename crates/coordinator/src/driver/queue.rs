//! The bounded queue of the driver's inputs.
//!
//! A sender wakes the driver after it has let go of the queue: the driver does not wait for the sender's lock. An input
//! that can wait is put in without waking it, and is taken with the next one, or with the next tick.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Why an input was not put in.
#[derive(Debug)]
pub enum PutError<T> {
    Full(T),
    /// The driver has ended.
    Ended,
}

struct State<T> {
    inputs: VecDeque<T>,
    /// The driver sleeps until something comes.
    is_awaited: bool,
    /// Threads that wait for room.
    waiting_for_room: usize,
    has_ended: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    inputs_max: usize,
    arrived: Condvar,
    has_room: Condvar,
}

/// The way in. Cheap to clone.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The driver's end. Dropped: nothing is taken any more.
pub struct Receiver<T>(Arc<Shared<T>>);

/// A queue of at most `inputs_max` inputs.
pub fn queue<T>(inputs_max: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { inputs: VecDeque::new(), is_awaited: false, waiting_for_room: 0, has_ended: false };
    let shared = Shared { state: Mutex::new(state), inputs_max, arrived: Condvar::new(), has_room: Condvar::new() };
    let shared = Arc::new(shared);
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    pub fn try_send(&self, input: T) -> Result<(), PutError<T>> {
        let Self(shared) = self;
        let mut state = shared.state.lock();
        state.put(input, shared.inputs_max)?;
        let wakes = std::mem::take(&mut state.is_awaited);
        drop(state);
        if wakes {
            shared.arrived.notify_one();
        }
        Ok(())
    }

    /// Without waking the driver.
    pub fn try_send_quietly(&self, input: T) -> Result<(), PutError<T>> {
        self.0.state.lock().put(input, self.0.inputs_max)
    }

    /// Waits for room. Not for a thread of the runtime.
    pub fn send(&self, input: T) -> Result<(), PutError<T>> {
        let mut input = input;
        loop {
            match self.try_send(input) {
                Err(PutError::Full(back)) => input = back,
                done => return done,
            }
            let mut state = self.0.state.lock();
            if state.inputs.len() >= self.0.inputs_max && !state.has_ended {
                state.waiting_for_room += 1;
                self.0.has_room.wait(&mut state);
                state.waiting_for_room -= 1;
            }
        }
    }
}

impl<T> State<T> {
    fn put(&mut self, input: T, inputs_max: usize) -> Result<(), PutError<T>> {
        if self.has_ended {
            return Err(PutError::Ended);
        }
        if self.inputs.len() >= inputs_max {
            return Err(PutError::Full(input));
        }
        self.inputs.push_back(input);
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next input; none if none comes until `deadline`.
    pub fn recv_until(&self, deadline: Instant) -> Option<T> {
        let Self(shared) = self;
        let mut state = shared.state.lock();
        while state.inputs.is_empty() {
            state.is_awaited = true;
            let is_late = shared.arrived.wait_until(&mut state, deadline).timed_out();
            state.is_awaited = false;
            if is_late {
                break;
            }
        }
        shared.take(&mut state)
    }

    pub fn try_recv(&self) -> Option<T> {
        self.0.take(&mut self.0.state.lock())
    }
}

impl<T> Shared<T> {
    fn take(&self, state: &mut State<T>) -> Option<T> {
        let input = state.inputs.pop_front()?;
        if state.waiting_for_room > 0 {
            self.has_room.notify_one();
        }
        Some(input)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.has_ended = true;
        // The callers whose inputs these are learn it now.
        let inputs = std::mem::take(&mut state.inputs);
        drop(state);
        drop(inputs);
        self.0.has_room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn inputs_come_in_order_and_no_more_than_fit() {
        let (sender, receiver) = queue(2);
        assert!(sender.try_send_quietly(1).is_ok() && sender.try_send(2).is_ok());
        assert!(matches!(sender.try_send(3), Err(PutError::Full(3))));
        assert!(matches!(sender.try_send_quietly(4), Err(PutError::Full(4))));
        assert_eq!(
            [receiver.recv_until(Instant::now()), receiver.try_recv(), receiver.try_recv()],
            [Some(1), Some(2), None]
        );
    }

    /// What came quietly does not end the wait of a driver that sleeps already: the next input does, and comes after
    /// it.
    #[test]
    fn a_quiet_input_waits_for_the_next_one() {
        let (sender, receiver) = queue(8);
        let deadline = Instant::now() + LONG;
        let driver = std::thread::spawn(move || (receiver.recv_until(deadline), receiver.try_recv()));
        while !sender.0.state.lock().is_awaited {
            std::thread::yield_now();
        }
        assert!(sender.try_send_quietly("quiet").is_ok());
        assert!(sender.0.state.lock().is_awaited && !driver.is_finished());
        assert!(sender.try_send("loud").is_ok());
        assert_eq!(driver.join().expect("ends"), (Some("quiet"), Some("loud")));
    }

    #[test]
    fn a_deadline_brings_what_came_quietly() {
        let (sender, receiver) = queue(8);
        assert_eq!(receiver.recv_until(Instant::now()), None);
        assert!(sender.try_send_quietly(1).is_ok());
        assert_eq!(receiver.recv_until(Instant::now()), Some(1));
    }

    #[test]
    fn who_waits_for_room_gets_it_or_learns_of_the_end() {
        let (sender, receiver) = queue(1);
        assert!(sender.try_send(1).is_ok());
        let waiting = |input| {
            let sender = sender.clone();
            std::thread::spawn(move || sender.send(input))
        };
        let second = waiting(2);
        while sender.0.state.lock().waiting_for_room == 0 {
            std::thread::yield_now();
        }
        assert_eq!(receiver.try_recv(), Some(1));
        assert!(second.join().expect("ends").is_ok());
        let third = waiting(3);
        while sender.0.state.lock().waiting_for_room == 0 {
            std::thread::yield_now();
        }
        drop(receiver);
        assert!(matches!(third.join().expect("ends"), Err(PutError::Ended)));
        assert!(matches!(sender.try_send(4), Err(PutError::Ended)));
    }
}
