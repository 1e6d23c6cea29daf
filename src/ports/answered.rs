//! Questions with their answers: a pair is formed once, and a missing answer is an error instead of a shift.

/// A list of answers that does not fit its list of questions: a defect of the side that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{answers} answers to {questions} questions")]
pub struct MissingAnswers {
    /// How many answers were expected.
    pub questions: usize,
    /// How many there are.
    pub answers: usize,
}

impl MissingAnswers {
    /// No answer to the only question.
    pub const NONE: Self = Self { questions: 1, answers: 0 };
}

/// Subjects, each with its answer. This is the only place where two lists are paired by position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered<Q, A>(Vec<(Q, A)>);

impl<Q, A> Answered<Q, A> {
    /// Pairs questions with answers in the same order.
    ///
    /// # Errors
    /// [`MissingAnswers`] if the two lists differ in length: then no answer can be attributed.
    pub fn new(questions: Vec<Q>, answers: Vec<A>) -> Result<Self, MissingAnswers> {
        if questions.len() != answers.len() {
            return Err(MissingAnswers { questions: questions.len(), answers: answers.len() });
        }
        Ok(Self(questions.into_iter().zip(answers).collect()))
    }

    /// Separates the subjects that have an answer from those that have none; both keep their order.
    pub fn split(subjects: Vec<Q>, mut answer: impl FnMut(&mut Q) -> Option<A>) -> (Self, Vec<Q>) {
        let (mut answered, mut unanswered) = (Vec::with_capacity(subjects.len()), Vec::new());
        for mut subject in subjects {
            match answer(&mut subject) {
                Some(answer) => answered.push((subject, answer)),
                None => unanswered.push(subject),
            }
        }
        (Self(answered), unanswered)
    }

    /// The pairs, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, (Q, A)> {
        self.0.iter()
    }

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<Q, A> IntoIterator for Answered<Q, A> {
    type Item = (Q, A);
    type IntoIter = std::vec::IntoIter<(Q, A)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, Q, A> IntoIterator for &'a Answered<Q, A> {
    type Item = &'a (Q, A);
    type IntoIter = std::slice::Iter<'a, (Q, A)>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Answers that arrive in any order, each at the index of its question. There is no preset answer.
#[derive(Clone, Debug)]
pub struct Slots<A>(Vec<Option<A>>);

impl<A> Slots<A> {
    /// One empty slot for each question.
    #[must_use]
    pub fn new(questions: usize) -> Self {
        Self(std::iter::repeat_with(|| None).take(questions).collect())
    }

    /// Sets the answer to a question.
    ///
    /// # Panics
    /// If there is no such question.
    pub fn set(&mut self, question: usize, answer: A) {
        self.0[question] = Some(answer);
    }

    /// The answer to a question, if there is one so far.
    #[must_use]
    pub fn get(&self, question: usize) -> Option<&A> {
        self.0.get(question)?.as_ref()
    }

    /// All answers, in the order of the questions.
    ///
    /// # Errors
    /// [`MissingAnswers`] if a slot is empty.
    pub fn finish(self) -> Result<Vec<A>, MissingAnswers> {
        let questions = self.0.len();
        let answers: Vec<_> = self.0.into_iter().flatten().collect();
        if answers.len() == questions {
            Ok(answers)
        } else {
            Err(MissingAnswers { questions, answers: answers.len() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_paired_only_if_there_is_one_for_each_question() {
        let pairs: Vec<_> = Answered::new(vec!["a", "b"], vec![1, 2]).unwrap().into_iter().collect();
        assert_eq!(pairs, [("a", 1), ("b", 2)]);
        for answers in [vec![1], vec![1, 2, 3]] {
            let missing = MissingAnswers { questions: 2, answers: answers.len() };
            assert_eq!(Answered::new(vec!["a", "b"], answers), Err(missing));
        }
    }

    #[test]
    fn a_subject_without_an_answer_does_not_shift_the_others() {
        let (answered, unanswered) =
            Answered::split(vec![1, 2, 3], |number| (*number != 2).then_some(*number * 10));
        assert_eq!(answered.into_iter().collect::<Vec<_>>(), [(1, 10), (3, 30)]);
        assert_eq!(unanswered, [2]);
    }

    #[test]
    fn slots_are_finished_all_or_not_at_all() {
        let mut slots = Slots::new(2);
        slots.set(1, "b");
        assert_eq!((slots.get(0), slots.get(1), slots.get(2)), (None, Some(&"b"), None));
        assert_eq!(slots.clone().finish(), Err(MissingAnswers { questions: 2, answers: 1 }));
        slots.set(0, "a");
        assert_eq!(slots.finish(), Ok(vec!["a", "b"]));
    }
}
