"""The arms of the tables of engine 1: the recipe behind each name, and the order to read them in.

Arms of a profile differ as their names say, and all see the same number of slices, except the
constant predictor, the long arms and the models of today.
"""

from __future__ import annotations

from atlaslib.profiles import SHORT, recipe
from atlaslib.recipes import Recipe, Value

# Both models use the baseline's learning rate and batch size, so that a difference between their
# results comes from the models.
_STEP: dict[str, dict[str, Value]] = {
    "smoke": {"learning_rate": 0.001},
    "quick": {"learning_rate": 0.001},
    "colab": {"learning_rate": 0.001},
    "paper": {"learning_rate": 0.001, "batch_size": 100},
}
# The paper also changed these for its ResNet: a tenth of the rate, half the batch (section 5.3).
_PAPERS_RATE = 0.0001


def arms(profile: str) -> dict[str, Recipe]:
    """Every arm's recipe at a profile, with seed 0; most important first."""
    short = SHORT[profile] | _STEP[profile]
    width = recipe("resnet", profile).width
    channels = 16 if width == "default" else width

    # 16 channels against the ResNet's 8, as when the tables of engine 1 were made
    wide: dict[str, Value] = {"width": 16} if profile == "quick" else {}

    def baseline(**changes: Value) -> Recipe:
        return recipe("baseline", profile, **(short | wide | {"map_width": channels} | changes))

    def resnet(**changes: Value) -> Recipe:
        return recipe("resnet", profile, **(short | changes))

    def today(name: str) -> Recipe:
        return recipe(name, profile, epochs=4 * resnet().epochs, downsample=resnet().downsample)

    batch = resnet().batch_size
    vector: dict[str, Value] = {"decoder": "vector"}
    long: dict[str, Value] = {"epochs": 3 * resnet().epochs}  # enough to follow loss and Dice
    narrow: dict[str, Value] = {"normalise": True, "width": channels}
    return {
        "baseline": baseline(),
        "resnet": resnet(),
        "zero": recipe("zero", profile),
        # learning rate and batch size (section 5.3)
        "resnet, rate 0.0001": resnet(learning_rate=0.0001),
        "resnet, rate 0.00001": resnet(learning_rate=0.00001),
        "resnet, half batch": resnet(batch_size=batch // 2),
        # what makes the difference: from the baseline to the ResNet, and back
        "baseline, no skips": baseline(decoder="unet without skips"),
        "baseline, map decoder": baseline(decoder="map"),
        "baseline, vector decoder": baseline(**vector),
        "baseline, vector decoder, norm": baseline(**vector, normalise=True),
        "baseline, vector decoder, norm, narrow": baseline(**vector, **narrow),
        "resnet, paper's rate and batch": resnet(learning_rate=_PAPERS_RATE, batch_size=batch // 2),
        "resnet, skips": resnet(decoder="unet"),
        "resnet, map decoder": resnet(decoder="map"),
        "resnet, no skips": resnet(decoder="unet without skips"),
        "baseline, norm, narrow": baseline(**narrow),
        "baseline, norm": baseline(normalise=True),
        # depth, and the size of the last layer (section 7)
        "resnet, 4 units": resnet(units=4),
        "resnet, skips, 4 units": resnet(decoder="unet", units=4),
        "resnet, 8 units": resnet(units=8),
        "resnet, 256 numbers": resnet(vector=256),
        # the split, and the loss
        "baseline, split by slice": baseline(split="slice"),
        "baseline, split by slice, inverted": baseline(split="slice inverted"),
        "baseline, split by scan": baseline(split="scan"),
        "long, weighted cross entropy": baseline(**long),
        "long, plain cross entropy": baseline(**long, pos_weight=1.0),
        "long, Dice loss": baseline(**long, pos_weight=1.0, loss="dice"),
        "long, Dice loss, a tenth of the rate": baseline(
            **long, pos_weight=1.0, loss="dice", learning_rate=_PAPERS_RATE
        ),
        "long, Dice loss plus cross entropy": baseline(
            **long, pos_weight=1.0, loss="dice + cross entropy"
        ),
        # what one would use today, and MONAI's counterpart: less than a quarter of the ResNet's
        # operations per slice, so four times as many epochs
        "residual_unet": today("residual_unet"),
        "dynunet": today("dynunet"),
    }
