"""What every card of data and of models says about their use."""

from __future__ import annotations

USES = """\
Meant for research on emotion recognition: comparing methods, studying modalities, reproducing results.

What a model of this kind predicts is how people who saw a clip named what it shows, not what somebody feels. The
relation between expression and feeling differs between persons, situations and cultures (Barrett, Adolphs, Marsella,
Martinez and Pollak, Psychological Science in the Public Interest 20(1), 2019).

It must not be used

- to decide about people: hiring, education, credit, insurance, policing, migration, health;
- to watch people who did not agree to it, at work, in class or in public; the European Union forbids inferring emotions
  at the workplace and in education (Regulation (EU) 2024/1689, article 5(1)(f));
- as a lie detector, or as evidence of what somebody felt or meant;
- to recognise, profile or follow single persons.
"""

PERSONAL = """\
Faces, voices and physiological signals are personal data, and so are features computed from them: speakers can be told
apart by them. They stand under the licence of the recordings, whoever computed them. Whoever asks to be removed can be:
`mer store delete-samples`.
"""
