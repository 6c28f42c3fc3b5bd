"""What the queries and keys of each family are: token ids, pictures and boxes."""

import pytest
import torch
from torch.nn import functional

pytest.importorskip("transformers")

import small_vision_language as small_models
from small_vision_language import FAMILIES, IMAGE
from xattn.integrations.transformers import capture
from xattn.runtime.errors import InputError

QUARTERS = [[0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]]


def recorded(name, implementation="eager"):
    torch.manual_seed(0)
    small = FAMILIES[name](implementation)
    with capture(small.model, layers=[0]) as attentions:
        small.model(**small.inputs)
    return small, attentions


@pytest.mark.parametrize("name", ["blip_itm", "blip_captions", "bridgetower", "flava"])
def test_a_class_token_and_patches(name):
    small, attentions = recorded(name)
    boxes = attentions.key_boxes()
    assert boxes.shape == (3, 5, 4)
    assert boxes[:, 0].isnan().all()
    assert boxes[:, 1:].tolist() == [QUARTERS] * 3
    assert torch.equal(attentions.query_ids, small.inputs["input_ids"])
    assert not attentions.key_images.any()
    original = attentions.key_boxes(torch.tensor([[[32, 64]], [[16, 16]], [[160, 80]]]))
    assert original[0, 4].tolist() == [16, 32, 32, 64]
    assert original[2, 2].tolist() == [80, 0, 160, 40]


@pytest.mark.parametrize("name", ["blip_itm", "flava", "vilt"])
def test_patches_alone(name):
    _, attentions = recorded(name)
    whole, patches = attentions[0], attentions.on_patches()[0]
    expected = whole.weights[..., 1:] / whole.weights[..., 1:].sum(-1, keepdim=True)
    where = whole.query_mask.expand(whole.weights.shape[:-1])
    torch.testing.assert_close(patches.weights[..., 1:][where], expected[where])
    assert not patches.weights[..., 0].any()
    assert not patches.key_mask[..., 0].any()
    assert patches.key_mask[..., 1:].all()


def test_no_patches_alone_where_keys_are_words():
    _, attentions = recorded("bart")
    with pytest.raises(InputError, match=r"^no key has a box, so that there is no attention to patches alone$"):
        attentions.on_patches()[0]
    assert attentions.key_boxes() is None


@pytest.mark.parametrize("is_training", [False, True])
def test_the_patches_that_vilt_draws(is_training):
    """Each key's token is the projection of the pixels in its box; pictures of three sizes, padded to one."""
    torch.manual_seed(0)
    small = FAMILIES["vilt"]()
    model = small.model.train(is_training)
    model.embeddings.dropout.p = 0.0
    model.embeddings.position_embeddings.data.zero_()
    pixels = small_models.pixels(3, height=12, width=20)
    sizes = [(20, 12), (12, 8), (8, 12)]
    mask = torch.zeros(3, 12, 20, dtype=torch.long)
    for each, (width, height) in zip(mask, sizes, strict=True):
        each[:height, :width] = 1
    seen = []
    model.embeddings.register_forward_hook(lambda _m, _a, output: seen.append(output[0]))
    with capture(model, layers=[0]) as attentions, torch.no_grad():
        model(**(small.inputs | {"pixel_values": pixels * mask.unsqueeze(1), "pixel_mask": mask}))
    state = torch.get_rng_state()
    boxes = attentions.key_boxes()
    assert torch.equal(torch.get_rng_state(), state)
    tokens = seen[0][:, 5:] - model.embeddings.token_type_embeddings.weight[1]
    projection = model.embeddings.patch_embeddings.projection
    orders = set()
    for sample, (width, height) in enumerate(sizes):
        places = []
        for key in range(1, boxes.shape[1]):
            if not attentions[0].key_mask[sample, 0, key]:
                continue
            x1, y1, x2, y2 = boxes[sample, key].int().tolist()
            assert (x2 - x1, y2 - y1) == (4, 4)
            expected = functional.conv2d(
                pixels[sample : sample + 1, :, y1:y2, x1:x2], projection.weight, projection.bias
            )
            torch.testing.assert_close(tokens[sample, key], expected.flatten())
            places.append((y1, x1))
        assert sorted(places) == [(y, x) for y in range(0, height, 4) for x in range(0, width, 4)]
        orders.add(places == sorted(places))
        doubled = attentions.key_boxes(torch.tensor([[[2 * width, height]] for width, height in sizes]))
        torch.testing.assert_close(doubled[..., [0, 2]], 2 * boxes[..., [0, 2]], equal_nan=True)
    assert False in orders  # so that a list of patches row by row would fail


def test_several_images_of_paligemma():
    """Two images a sample, of four patches each; padding on the left."""
    small, attentions = recorded("paligemma", "sdpa")
    assert attentions.key_images.tolist() == [[0] * 4 + [1] * 4] * 2
    assert attentions.key_boxes().tolist() == [QUARTERS * 2] * 2
    ids = small.inputs["input_ids"]
    assert attentions.query_ids.tolist() == [ids[0, 8:].tolist(), [*ids[1, 10:].tolist(), 0, 0]]
    assert attentions[0].query_mask[:, 0].tolist() == [[True] * 4, [True, True, False, False]]
    original = attentions.key_boxes(torch.tensor([[[16, 16], [32, 160]], [[16, 16], [16, 16]]]))
    assert original[0, 7].tolist() == [16, 80, 32, 160]


def test_images_of_different_form_of_qwen():
    """Of 2 x 4, 4 x 2 and 4 x 4 patches of 4 pixels, of which each token merges 2 x 2."""
    small, attentions = recorded("qwen2_vl", "sdpa")
    assert attentions.key_images.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert attentions.key_boxes().tolist() == [
        [[0, 0, 8, 8], [8, 0, 16, 8], [0, 0, 8, 8], [0, 8, 8, 16]],
        QUARTERS,
    ]
    ids = small.inputs["input_ids"]
    assert attentions.query_ids.tolist() == [
        [each for each in ids[0].tolist() if each != IMAGE],
        [*[each for each in ids[1, :-1].tolist() if each != IMAGE], 0],
    ]
    with pytest.raises(
        InputError, match=r"^sizes of shape \(2, 1, 2\) are not the width and height of each picture: exp"
    ):
        attentions.key_boxes(torch.ones(2, 1, 2))


def test_the_regions_of_lxmert():
    small, attentions = recorded("lxmert")
    with pytest.raises(
        InputError, match=r"^the model got boxes as shares of their pictures: pass sizes, for boxes in pix"
    ):
        attentions.key_boxes()
    sizes = torch.tensor([[[100.0, 50.0]]] * 3)
    expected = small.inputs["visual_pos"] * torch.tensor([100.0, 50.0, 100.0, 50.0])
    torch.testing.assert_close(attentions.key_boxes(sizes), expected)


def test_a_decoder_without_pictures():
    small = FAMILIES["paligemma"]()
    small.inputs.pop("pixel_values")
    with capture(small.model) as attentions:
        small.model(**small.inputs)
    assert attentions.key_boxes() is None
    assert attentions[0].weights.shape == (2, 4, 4, 8)


def test_the_text_decoder_alone():
    """What `generate` of BLIP calls; it has no picture, so that keys have no boxes."""
    small = FAMILIES["blip_captions"]()
    states = small.model.vision_model(small.inputs["pixel_values"]).last_hidden_state
    with capture(small.model.text_decoder, layers=[1]) as attentions:
        small.model.text_decoder(small.inputs["input_ids"], encoder_hidden_states=states)
    assert attentions.names == ["bert.encoder.layer.1.crossattention.self"]
    assert attentions.key_boxes() is None
    assert torch.equal(attentions.query_ids, small.inputs["input_ids"])
