"""A small config and the facts of its data."""

from motfm_jax import presets, settings
from motfm_jax.data.intensity import Intensity
from motfm_jax.data.records import Facts

INTENSITY = Intensity("minmax", "dataset", (-1.0, 1.0), (0.5, 99.5), 0.0, 255.0)
FACTS = Facts(
    size=(16, 16),
    channels=1,
    classes=("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES"),
    mask_labels=("background", "cavity", "myocardium"),
    intensity=INTENSITY.to_json(),
    spacing_mm=(0.5, 0.6),
)


def make_config(**changes):
    config = settings.default()
    presets.apply(config, 2, "debug")
    config.update_from_flattened_dict(
        {
            "cond": "mask+class",
            "data.size": (16, 16),
            "data.phantom_patients": 6,
            "model.channels": (8, 16),
            "model.norm_groups": 4,
            "model.head_dim": 8,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
    )
    settings.check(config)
    return config
