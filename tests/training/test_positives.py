"""Label targets against a naive pair-by-pair reading of the rules."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medweave.corpus.known import LabelSet
from medweave.training.positives import positives_of

torch.set_num_threads(1)
CHEST, SKIN = ("xray", "chest"), ("dermoscopy", "skin")
FINDINGS = ("effusion", "edema", "normal")


def label_sets():
    states = st.fixed_dictionaries({f: st.sampled_from("pau") for f in FINDINGS})
    return st.builds(
        lambda key, state: LabelSet(
            key,
            frozenset(f for f in FINDINGS if state[f] == "p"),
            frozenset(f for f in FINDINGS if state[f] == "a"),
        ),
        st.sampled_from([CHEST, SKIN]),
        states,
    )


def naive(labels):
    """Targets [B, B] and ignored pairs [B, B], straight from the words of the module docstring."""
    size = len(labels)
    target, ignored = torch.eye(size), torch.zeros(size, size, dtype=torch.bool)
    for i, image in enumerate(labels):
        for j, text in enumerate(labels):
            if image is None or text is None or not image.present or not text.present:
                continue
            if image.key != text.key:
                continue
            unsure = any(f not in image.present and f not in image.absent for f in text.present)
            denied = any(f in image.absent for f in text.present)
            ignored[i, j] = unsure and not denied
            target[i, j] = 0 if ignored[i, j] else len(image.present & text.present) / len(image.present | text.present)
    return target, ignored


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | label_sets(), min_size=1, max_size=12))
def test_targets_equal_the_naive_table(labels):
    positives = positives_of(labels)
    target, ignored = naive(labels)
    rows = torch.randn(len(labels), 4, dtype=torch.float32)
    others = torch.randn(len(labels), 4, dtype=torch.float32)
    of_images, of_texts = target / target.sum(1, keepdim=True), (target / target.sum(0, keepdim=True)).T
    assert torch.allclose(positives.text_targets(rows), of_images @ rows, atol=1e-5)
    assert torch.allclose(positives.image_targets(rows), of_texts @ rows, atol=1e-5)
    assert torch.allclose(positives.weighted_sum_of_pairs(rows, others), (target * (rows @ others.T)).sum(), atol=1e-4)
    assert torch.equal(positives.ignored[positives.sets][:, positives.sets], ignored)
    entropies = [-torch.xlogy(one, one).sum() / len(labels) for one in (of_images, of_texts)]
    assert torch.allclose(positives.entropy, sum(entropies) / 2, atol=1e-5)


def test_two_pneumonias_are_positives_and_an_unknown_label_is_ignored():
    sure = LabelSet(CHEST, frozenset({"pneumonia"}), frozenset({"normal"}))
    silent = LabelSet(CHEST, frozenset({"edema"}), frozenset())
    positives = positives_of([sure, sure, silent])
    assert positives.likeness[positives.sets[0], positives.sets[1]] == 1
    assert positives.ignored[positives.sets[2], positives.sets[0]]
