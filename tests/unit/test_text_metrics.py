"""Metrics of translation: sacrebleu's figures, with what they have to be cited with."""

from __future__ import annotations

import sys

import pytest

from pipeline.core.failures import ConfigError
from pipeline.tasks import text_metrics

RIGHT = ["A dog runs over the green grass .", "Two men sit on a bench in the park ."]
WRONG = ["A dog runs over the grass .", "Two women stand on a bench in a park ."]


def test_a_missing_extra_is_one_line_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ConfigError, match=r"^sacrebleu is not installed; .*: pip install -e '.\[text\]'$"):
        text_metrics.corpus_bleu(RIGHT, RIGHT)


def test_right_answers_have_100_and_others_less():
    pytest.importorskip("sacrebleu")
    assert text_metrics.corpus_bleu(RIGHT, RIGHT) == pytest.approx(100)
    assert text_metrics.corpus_chrf(RIGHT, RIGHT) == pytest.approx(100)
    assert 0 < text_metrics.corpus_bleu(WRONG, RIGHT) < 60
    assert 0 < text_metrics.corpus_chrf(WRONG, RIGHT) < 90
    assert text_metrics.corpus_bleu(["", ""], RIGHT) == 0


def test_bleu_by_hand():
    """3 of 4 words, 2 of 3 pairs, 1 of 2 triples, and no run of four, which sacrebleu's smoothing takes for 1/2."""
    pytest.importorskip("sacrebleu")
    assert text_metrics.corpus_bleu(["a b c x"], ["a b c d"]) == pytest.approx(
        100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4)
    )


def test_signatures_name_the_metric_s_settings_and_the_version():
    sacrebleu = pytest.importorskip("sacrebleu")
    assert text_metrics.bleu_signature() == (
        f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    )
    assert text_metrics.chrf_signature() == (
        f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}"
    )


def test_answers_that_end_like_tokenised_text_are_scored_without_a_warning(caplog):
    pytest.importorskip("sacrebleu")
    text_metrics.corpus_bleu(["A dog ."] * 200, ["A dog."] * 200)
    assert not caplog.records
