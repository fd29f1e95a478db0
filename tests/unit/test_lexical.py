"""Words of titles: rare ones that two titles share bring them together."""

import numpy as np
import pytest
from scipy import sparse

from reccocktail.ranking import lexical
from reccocktail.ranking.lexical import DIMENSIONS, Lexicon, Words, term_weights, words_of

BRANDS = ["Alverde", "Bioré", "Cetaphil", "Dove", "Eucerin", "Fresh", "Garnier", "Himalaya"]
KINDS = ["cream", "shampoo", "soap", "lotion", "gel", "oil", "mask"]


def catalogue(items=60, seed=0):
    """Titles of one common word, a brand, a kind and a size."""
    rng = np.random.default_rng(seed)
    return [
        f"The {rng.choice(BRANDS)} {rng.choice(KINDS)} {rng.integers(1, 9)} oz"
        for _ in range(items)
    ]


def test_a_shared_rare_word_counts_more_than_a_common_one():
    titles = [f"The {kind} of {brand}" for brand in BRANDS for kind in KINDS[:2]]
    titles += [f"The {kind}" for kind in KINDS * 4]
    (row,) = Words(titles, max_history=10).scores([[0]], [range(len(titles))])
    assert np.argmax(row[1:]) == 0  # item 1 has the brand of item 0, others have its kind
    assert row[0] == pytest.approx(1.0, abs=1e-5)


def test_with_room_enough_cosines_are_those_of_tfidf():
    titles = catalogue(40)
    blocks = [part.fit_transform(titles) for part in term_weights(2)]
    exact = sparse.csr_array(sparse.hstack(blocks))
    found = Lexicon(titles, dimensions=1000).vectors(titles)
    assert found @ found.T == pytest.approx((exact @ exact.T).toarray() / 2, abs=1e-4)


def test_few_dimensions_keep_most_of_it():
    titles = list(dict.fromkeys(catalogue(400)))
    few, all_of_them = Lexicon(titles, 64), Lexicon(titles, 1000)
    assert few.width == 64 < all_of_them.width
    pairs = np.triu_indices(len(titles), 1)
    cosines = [
        (lexicon.vectors(titles) @ lexicon.vectors(titles).T)[pairs]
        for lexicon in (few, all_of_them)
    ]
    assert np.corrcoef(cosines)[0, 1] > 0.9


def test_vectors_are_unit_or_zero():
    lexicon = Lexicon(catalogue())
    assert 0 < lexicon.width <= DIMENSIONS
    found = lexicon.vectors([*catalogue(), "Щётка", ""])
    assert np.linalg.norm(found[:-2], axis=1) == pytest.approx(1.0, abs=1e-5)
    assert not found[-2:].any()
    assert found.dtype == np.float32


def test_a_new_title_has_the_vector_of_the_same_words():
    titles = catalogue()
    words = Words(titles, max_history=10)
    more = words.extended([titles[5], "Щётка"])
    assert more.items[60] == pytest.approx(words.items[5], abs=1e-6)
    assert not more.items[61].any()
    assert len(words.items) == 60 and words.extended([]) is words


def test_a_user_is_the_mean_of_what_is_read():
    words = Words(catalogue(), max_history=3)
    history = list(range(7))
    mean = words.items[4:7].mean(axis=0)
    assert words.users([history])[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    rows = words.scores([history, [0]], [[3, 1], [2]])
    whole = words.catalogue([history, [0]])
    assert rows[0] == pytest.approx(whole[0, [3, 1]], abs=1e-6)
    assert rows[1] == pytest.approx(whole[1, [2]], abs=1e-6)


@pytest.mark.parametrize("titles", [["ab", "cd", "ef"], ["", "?"], ["only one"]])
def test_where_no_two_titles_share_a_term_words_say_nothing(titles):
    for words in (Words(titles, max_history=10), Words(titles, max_history=10)):  # learnt, kept
        assert words.width == words.lexicon.width == 0
        assert words.scores([[0]], [[0]])[0].tolist() == [0.0]
        assert words.catalogue([[0]]).tolist() == [[0.0] * len(titles)]


def test_the_same_titles_give_the_same_numbers():
    titles = catalogue()
    assert np.array_equal(Lexicon(titles).vectors(titles), Lexicon(titles).vectors(titles))


def test_a_large_catalogue_is_learnt_from_a_part(monkeypatch):
    monkeypatch.setattr(lexical, "LEARNT_FROM", 100)
    titles = catalogue(400)
    lexicon = Lexicon(titles)
    assert lexicon.width <= 100
    found = lexicon.vectors(titles)
    assert len(found) == 400 and (np.linalg.norm(found, axis=1) > 0.9).mean() > 0.9


def test_words_are_learnt_once_for_all_models():
    titles = tuple(catalogue())
    assert words_of(titles, 10) is words_of(tuple(catalogue()), 10)
    assert words_of(titles, 3) is not words_of(titles, 10)


def test_vectors_of_a_catalogue_are_kept_and_a_lexicon_is_learnt_for_new_titles_alone(monkeypatch):
    titles = catalogue()
    first = Words(titles, max_history=10)
    with monkeypatch.context() as patch:
        patch.setattr(lexical, "Lexicon", lambda _: pytest.fail("learnt again"))
        again = Words(titles, max_history=3)
        assert np.array_equal(again.items, first.items)
        assert again.width == first.lexicon.width
        with pytest.raises(pytest.fail.Exception, match="learnt again"):
            Words([*titles, "One more"], max_history=3)
    more = again.extended([titles[5]])
    assert more.items[60] == pytest.approx(first.items[5], abs=1e-6)


def test_other_titles_in_the_same_number_have_their_own_vectors():
    first = Words(catalogue(), max_history=10)
    titles = catalogue(seed=1)
    other = Words(titles, max_history=10)
    assert np.array_equal(other.items, Lexicon(titles).vectors(titles))
    assert other.items.shape != first.items.shape or not np.array_equal(other.items, first.items)


def test_no_history_no_vectors():
    words = Words(catalogue(), max_history=10)
    assert words.users([]).shape == (0, words.lexicon.width)
    assert words.scores([], []) == []
