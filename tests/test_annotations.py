"""The shapes in annotations are those that are taken and returned: jaxtyping with beartype switched on."""

import subprocess
import sys

CHECKED = """
import sys
from types import ModuleType

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

checker = sys.modules["checker"] = ModuleType("checker")
checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for type checkers

modules = ["contrastive", "metrics", "encoders", "augment", "sharing", "balancing"]
modules += ["fusion", "matching", "towers", "attention", "seq2seq", "cross_modal"]
with jaxtyping.install_import_hook([f"mmtutor.{m}" for m in modules], "checker.check"):
    from mmtutor import augment, balancing, contrastive, encoders, metrics, sharing
    from mmtutor import attention, cross_modal, fusion, matching, seq2seq, towers

import torch

a, b = torch.randn(2, 6, 4)
match = torch.eye(6, dtype=torch.bool)
contrastive.info_nce(a, b, 0.07)
contrastive.info_nce(a, b, torch.tensor(0.07), chunk_size=4)
contrastive.multi_positive_nce(a, b[:3], match[:, :3], 0.07)
for reduction in ("mean", "sum", "none"):
    contrastive.margin_contrastive(a, b, match, reduction=reduction)
    contrastive.margin_contrastive(a, b, match, metric="cosine", squared=False, reduction=reduction)
contrastive.sigmoid_contrastive(a, b)
contrastive.alignment(a, b)
contrastive.uniformity(a)

similarity = contrastive.cosine(a, b)
metrics.hits_at_k(similarity, 2)
metrics.recall_at_k(similarity, 2, match)
metrics.median_rank(similarity)

images = torch.zeros(2, 8, 32, 32, 3, dtype=torch.uint8)
image_encoder, text_encoder = encoders.ImageEncoder(dim=5, width=4), encoders.TextEncoder(dim=5, width=4)
image_encoder(encoders.pixels(images[:, 0]))
encoders.pixels(images.numpy())
encoders.VideoEncoder(image_encoder)(encoders.pixels(images))
text_encoder(["red apple", "", "cat"])
text_encoder(text_encoder.prepare(["red apple", "cat"]))
text_encoder.layers(), text_encoder.table
augment.random_affine(torch.rand(2, 3, 32, 32))
augment.random_ink(torch.rand(2, 3, 32, 32))
pictures, clips = torch.rand(2, 3, 32, 32), torch.rand(2, 8, 3, 32, 32)
valid = torch.ones(2, 8, dtype=torch.bool)
for x in (pictures, clips):
    augment.random_mirror(x)
    augment.random_quarter_turn(x)
    augment.random_crop(x)
    augment.mask_patches(x)
    augment.one_by_one(torch.Tensor.neg, x)
augment.frames_alike(augment.random_ink, clips)
augment.sample_frames(clips, 3)
augment.reverse_time(clips)
augment.mask_present(valid)
augment.another_hand(valid, torch.tensor([0, 1]), torch.tensor([2, 3]))
augment.another_text([["cat"]])
augment.mask_words(["red apple"])
augment.balanced_sample(torch.tensor([0, 0, 1]), 4)
augment.allowed("group")
augment.check("mirror", ["group"])

heads = {"digit": sharing.Head(4, 3), "words": sharing.Head(4, 5, "labels")}
heads["slant"] = sharing.Head(4, 2, "numbers")
targets = {"digit": torch.tensor([0, 2]), "words": torch.zeros(2, 5, dtype=torch.bool)}
targets["slant"] = torch.zeros(2, 2)
trunk = sharing.resnet_trunk(dim=4, width=2)
hard, pulled = sharing.HardSharing(trunk, heads), sharing.SoftSharing(trunk, heads, strength=0.1)
for model in (hard, pulled, sharing.CrossStitch(trunk, heads, own=0.9)):
    model.features(pictures)
    losses = model.losses(model(pictures), targets, valid={"digit": torch.tensor([True, False])})
losses = hard.losses(hard(pictures), targets)
sharing.gradient_cosines(sharing.task_gradients(losses, hard.trunk.parameters()))
pulled.penalty(), pulled.pull_together(0.1), sharing.soft_sharing_penalty(pulled.trunks.values())
sharing.weight_distance(trunk, trunk), sharing.parameter_count(trunk)
sharing.multi_task_gain({"digit": 0.6, "slant": 1}, {"digit": 0.5, "slant": 2}, lower_is_better={"slant"})
sharing.matching_width(lambda width: sharing.resnet_trunk(4, width), 3000, range(2, 9))

experts = [sharing.resnet_trunk(dim=4, width=2) for _ in range(2)]
mixture = balancing.MMoE(experts, heads, inputs=3 * 32 * 32)
points, gates = mixture.attend(pictures)
load = balancing.expert_load(gates)
balancing.effective_experts(load), balancing.load_balancing_loss(gates)
balancing.TaskAttention(trunk, heads, [2, 2, 4, 8, 4]).attend(pictures)
last = list(hard.trunk[-1].parameters())
for weighting in (
    balancing.FixedWeights(heads),
    balancing.SoftmaxWeights(heads),
    balancing.DynamicWeightAverage(heads, every=1),
    balancing.UncertaintyWeighting(heads),
    balancing.GradNorm(heads, last),
    balancing.PCGrad(heads, hard, hard.trunk.parameters()),
):
    weighting(hard.losses(hard(pictures), targets)).backward()
    weighting.weights()
balancing.pcgrad(torch.randn(3, 5))

dims, here = {"image": 4, "text": 3}, torch.tensor([[True, False], [True, True]])
z = {"image": torch.randn(2, 4), "text": torch.randn(2, 3)}
fusers = [getattr(fusion, f"{name}Fusion") for name in (
    "Concat", "Sum", "Mean", "Max", "Gated", "Attention", "Transformer", "Bilinear", "LowRank", "Late")]
for fuser in fusers:
    fuser(dims, 4)(z, here)
for kind in ("mean", "learnt", "stacking"):
    late = fusion.LateFusion(dims, 5, kind=kind)
    late(z), late.modality_logits(z, here)
fusion.logarithmic_pool(torch.randn(2, 3, 5).log_softmax(2), torch.rand(2, 3))
fusion.gradient_modulation({"image": 0.8, "text": 0.4})
fusion.shapley_values(lambda s: len(s), ["a", "b"])
p, q = torch.randn(2, 6, 4).softmax(2)
fusion.reliability_curve(p, torch.arange(6) % 4), fusion.expected_calibration_error(p, torch.arange(6) % 4)

matching.kl_divergence(p, q), matching.kl_divergence(p[0], q), matching.js_divergence(p, q)
matching.kl_from_logits(a, b), matching.js_from_logits(a, b)
matching.matching_degree(a, b), matching.matching_degree(p, q, "js"), matching.divergence_of_means(p, q)
for loss in matching.MATCHING_LOSSES.values():
    loss(a, b)
discriminator = matching.ModalityDiscriminator(["image", "text"], dim=4)
discriminator.loss({"image": a, "text": b[:3]})
mixture = matching.PairedMixture({"x": "gaussian", "y": "multinomial"}, components=2)
mixture.fit({"x": a, "y": b.abs()}), mixture.log_likelihood({"x": a}), mixture.posterior({"y": b.abs()})
mixture.similarity({"x": a}, {"y": b.abs()})

unary, pairwise = torch.zeros(2, 3), torch.ones(2, 3, 3)
towers.crf_log_partition(unary, pairwise), towers.mean_field(unary, pairwise)
u = towers.crf_marginals(unary, pairwise)
towers.rank_modalities(u), towers.choose_modalities(u, 2), towers.confidence_weights(u)
towers.corruption_loss(u, torch.tensor([[True, False, False], [False, False, True]]))
towers.swap_modalities(z, rate=0.5)
points = {"image": torch.randn(2, 4), "text": torch.randn(2, 4)}
gate = towers.CRFGate(dims, 4)
gate(points, here)
towers.ResidualInteraction(4)(points["image"], points["text"])
encoders_of = {m: torch.nn.Linear(width, 4) for m, width in dims.items()}
towers.TwoTower(encoders_of, 4, fusion.MeanFusion(dict.fromkeys(dims, 4), 4), gate=gate)(z, here)

query, sequence, present = torch.randn(2, 4), torch.randn(2, 8, 4), torch.arange(8) < torch.tensor([[8], [0]])
attention.masked_softmax(torch.randn(2, 3, 8), present[:, None])
kinds = [getattr(attention, f"{name}Attention") for name in (
    "Additive", "Content", "Dot", "ScaledDot", "Location", "Local", "Hybrid")]
for kind in kinds:
    _, state = kind(4)(query, sequence)
    kind(4)(query, sequence, torch.randn(2, 8, 5), present, state)
many = attention.MultiHeadAttention(4, heads=2)
many(sequence, sequence, sequence, present, need_weights=True, causal=True)
many(sequence, sequence, causal=True), many(query[:, None], sequence, valid=present)

vocabulary = seq2seq.Vocabulary(["red apple", "红苹果", ""])
ids, size = vocabulary.encode(["red apple", ""]), len(vocabulary)
vocabulary.decode(ids), seq2seq.sinusoids(3, 5)
seq2seq.Seq2Seq(seq2seq.PictureTokens(4, width=2), seq2seq.VanillaDecoder(size, 4)).loss(pictures, ids)
decoders = [seq2seq.VanillaDecoder(size, 4), seq2seq.TransformerDecoder(size, 4, heads=2)]
decoders += [seq2seq.AttentionDecoder(size, 4, kind(4)) for kind in kinds]
for decoder in decoders:
    translator = seq2seq.Seq2Seq(seq2seq.TextTokens(size, 4), decoder)
    translator(ids, ids), translator.loss(ids, ids), translator.log_probability(ids, ids)
    translator.generate(ids, max_length=3), translator.generate(ids, max_length=3, beam=2)

names, masks = ["image", "text"], {"image": present, "text": torch.ones(2, 3, dtype=torch.bool)}
both = {"image": sequence, "text": torch.randn(2, 3, 4)}
for kind in ("Interactive", "Joint", "Co"):
    getattr(cross_modal, f"{kind}Attention")(4, names)(both, masks)
cross_modal.InteractiveAttention(4, names).read(both), cross_modal.CoAttention(4, names).affinity(both, masks)
joint = cross_modal.JointAttention(4, names)
joint.share(joint(both)[1]), cross_modal.masked_mean(sequence, present)
in_time = {"image": sequence, "text": torch.randn(2, 8, 4)}
cross_modal.TemporalAttention(4, names)(in_time, {"image": present})
for need_weights in (False, True):
    cross_modal.CrossModalTransformer(4, names, heads=2)(both, masks, need_weights)
    for part in (cross_modal.CrossModalLayer, cross_modal.GatedCrossAttention):
        part(4, heads=2)(*both.values(), *masks.values(), need_weights)
cross_modal.GatedCrossAttention(4, heads=2).gate

with pytest.raises(jaxtyping.TypeCheckError):  # so the checks are on
    contrastive.cosine(a, b[:, :3])
print("checked")
"""


def test_public_functions_keep_the_shapes_of_their_annotations():
    done = subprocess.run([sys.executable, "-c", CHECKED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "checked"
