"""What the examples of the family claim, beside their controls."""

import pytest
import torch

from test_examples import EXAMPLES, imported

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of dead units, in short runs
FAMILY = EXAMPLES / "family"


def test_a_subspace_is_compared_and_not_its_basis():
    """An autoencoder with the principal subspace in another basis is as good as PCA, to the digit;
    one that has learnt nothing is not.
    """
    with imported(FAMILY / "principal_subspace.py") as example:
        images = example.digits()
        pca = example.PCA(example.NUMBERS).fit(images.flatten(1).double().numpy())
        tokenizer = example.trained(images, 1)
        assert example.compared(tokenizer, images, pca).angle > 30
        torch.manual_seed(0)
        basis, axes = torch.randn(8, 8), torch.from_numpy(pca.components_).float()
        made, mean = tokenizer.autoencoder, torch.from_numpy(pca.mean_).float()
        with torch.no_grad():
            made.quant_conv.weight[:8] = (basis @ axes)[..., None, None]
            made.quant_conv.bias[:8] = -basis @ axes @ mean
            made.post_quant_conv.weight.copy_(torch.eye(8)[..., None, None])
            made.post_quant_conv.bias.zero_()
            made.decoder.conv_out.weight.copy_((axes.T @ torch.linalg.inv(basis))[..., None, None])
            made.decoder.conv_out.bias.copy_(mean)
        found = example.compared(tokenizer, images, pca)
        assert found.angle < 0.1 and abs(found.error - 1) < 1e-4 and found.lean > 0.05


@pytest.mark.slow
def test_ratings_are_foretold_by_an_autoencoder_and_not_by_biases():
    with imported(FAMILY / "autorec.py") as autorec:
        whole, given = autorec.ratings(600)
        answers = [autorec.by_autoencoder(whole, given, 700), autorec.by_biases(whole, given),
                   torch.full_like(whole, whole[given].mean())]  # fmt: skip
        found, biases, mean = (autorec.error(each, whole, given) for each in answers)
        assert autorec.NOISE < found < 0.75 * biases and biases < mean


def test_unrated_films_never_count_and_are_not_seen():
    with imported(FAMILY / "autorec.py") as autorec:
        images = torch.full((2, 1, 4, 4), 0.5)
        images[0, 0, 0, 0] = autorec.NEVER
        chance = [torch.Generator().manual_seed(i) for i in range(2)]
        seen, counted = autorec.Unrated(0.5)(images, chance)
        assert counted[0, 0, 0, 0] == 0 and counted.sum() == 31
        assert seen[0, 0, 0, 0] == 0 and set(seen.unique().tolist()) == {0.0, 0.5}


@pytest.mark.slow
def test_jets_of_more_prongs_are_told_by_the_error_and_those_of_fewer_are_not():
    with imported(FAMILY / "jets.py") as jets:
        known = [jets.jets(prongs, 2000, seed=prongs) for prongs in (1, 2)]
        unseen = [jets.jets(prongs, 400, seed=10 + prongs) for prongs in (1, 2)]
        found = []
        for kind in (0, 1):
            tokenizer = jets.trained(known[kind], 500)
            own, other = (jets.scores(tokenizer, known[kind], unseen[i]) for i in (kind, 1 - kind))
            found.append(jets.told(own, other))
        assert found[0]["error"] > 0.95 > found[0]["sum of pixels"]
        assert found[1]["error"] < 0.6  # of less than chance where it is trained for longer


@pytest.mark.slow
def test_shapes_grow_in_the_latent_and_remain_shapes():
    with imported(FAMILY / "latent_optimisation.py") as optimisation:
        data = optimisation.shapes(3000, 0)
        tokenizer = optimisation.trained(data, 1000)
        found = optimisation.ways(tokenizer, optimisation.shapes(48, 2, optimisation.SMALL), 2.5)
        ends = {name: way[-1].clamp(-1, 1) for name, way in found.items()}
        begun = optimisation.area(found["latent"][0]).mean()
        assert optimisation.area(ends["latent"]).mean() > 2 * begun
        real = optimisation.alike(optimisation.shapes(1000, 1), ends["latent"])
        rebuilt = optimisation.nearest(tokenizer.reconstruct(real).clamp(-1, 1), data)
        away = {name: optimisation.nearest(end, data) for name, end in ends.items()}
        assert away["latent"] < 1.3 * rebuilt
        assert away["latent"] < away["latent, no prior"] and away["latent"] < 0.8 * away["pixels"]


@pytest.mark.slow
def test_between_two_instruments_is_one_that_could_be():
    with imported(FAMILY / "spectrograms.py") as spectrograms:
        images = spectrograms.tones(*spectrograms.drawn(3000, 0)[1:])
        tokenizer = spectrograms.trained(images, 800)
        _, _, pitch, decay = spectrograms.drawn(50, 1)
        begin, end = (spectrograms.tones(torch.full((50,), each), pitch, decay)
                      for each in spectrograms.FORMANTS[::2])  # fmt: skip
        found = spectrograms.ways(tokenizer, begin, end)
        heard = torch.stack([spectrograms.centroid(step) for step in found["latent"]])
        assert (heard.diff(dim=0) > 0).all(0).double().mean() > 0.9
        away = {name: spectrograms.nearest(way[4], images) for name, way in found.items()}
        assert away["latent"] < 0.8 * away["pixels"]


def test_a_centroid_is_where_the_power_lies():
    with imported(FAMILY / "spectrograms.py") as spectrograms:
        for row in (3, 20):
            image = torch.full((1, 1, 32, 32), -1.0)
            image[0, 0, row] = 1
            place = (31 - row) / 31 * spectrograms.OCTAVES
            assert spectrograms.centroid(image).item() == pytest.approx(place, abs=1e-6)


@pytest.mark.slow
def test_expressions_come_back_whole_where_there_are_codes_enough():
    with imported(FAMILY / "expressions.py") as expressions:
        texts = expressions.expressions(6000)
        assert expressions.decoded(expressions.encoded(texts[:50])) == texts[:50]
        unseen, texts = texts[:500], texts[500:]
        read = [expressions.round_trip(codes, texts, unseen, 500)[1] for codes in (256, 16)]
        enough, few = (expressions.exact(unseen, each) for each in read)
        assert enough > 0.8 and few < enough / 2


@pytest.mark.slow
def test_features_of_a_class_can_be_clamped_and_other_classes_stay():
    with imported(FAMILY / "sparse_features.py") as features:
        pixels, names = (torch.from_numpy(part) for part in features.digits())
        images = pixels[:, None] / 127.5 - 1
        drawing = features.trained(images, names, 600)
        judge = features.SVC(gamma=0.01).fit(images.flatten(1).numpy(), names.numpy())

        def judged(target: int, units: torch.Tensor, times: float) -> torch.Tensor:
            drawn = drawing.drawn(25, target, units, times)
            return torch.tensor(features.accuracy(judge, drawn, target))

        none = torch.zeros(0, dtype=torch.long)
        plain, clamped, nobodys = (sum(each) / 2 for each in zip(*(
            (judged(t, none, 0), judged(t, drawing.own(t), 0), judged(t, drawing.nobodys(t), -1))
            for t in (0, 7)), strict=True))  # fmt: skip
        assert plain.min() > 0.7  # it draws what it is told
        assert plain[0] - clamped[0] > 0.3 and plain[1] - clamped[1] < 0.06
        assert plain[0] - nobodys[0] < 0.15


def test_units_that_are_clamped_at_what_they_are_change_nothing():
    with imported(FAMILY / "sparse_features.py") as features:
        model = features.NextCode().transformer.eval()
        ids = torch.randint(features.CODES, (4, 17))
        states = features.streamed(model, 0, ids)
        stream = features.sparse(model, 0, states, 2)
        before = model(input_ids=ids).logits
        with stream.clamped(torch.zeros(0, dtype=torch.long), torch.zeros(0)):
            assert torch.equal(model(input_ids=ids).logits, before)
        with stream.clamped(torch.arange(512), torch.full((512,), 3.0)):
            assert not torch.allclose(model(input_ids=ids).logits, before)
        assert torch.equal(model(input_ids=ids).logits, before)
