"""The reference side of `bench.oracles`, run in an interpreter that has keras, tf_keras and tensorflow, and not us.

    python keras_layers.py FOLDER          reads cases.json and given.npz there, writes answers.npz

A case is run by each reference it names: `keras3`, or tf_keras as `keras2` (its v2 layer) or `keras1` (its v1 layer).
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras.src.layers.normalization.batch_normalization_v1 import BatchNormalization as FirstBatchNormalization

LAYERS = {
    "keras1": FirstBatchNormalization,
    "keras2": tf_keras.layers.BatchNormalization,
    "keras3": keras.layers.BatchNormalization,
}
OPTIMIZERS = {"keras1": tf_keras.optimizers, "keras2": tf_keras.optimizers, "keras3": keras.optimizers}
CLASSES = {"sgd": "SGD", "adam": "Adam", "rmsprop": "RMSprop"}


def main(folder):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    folder = Path(folder)
    cases = json.loads((folder / "cases.json").read_text())
    answers = {}
    with np.load(folder / "given.npz", allow_pickle=False) as given:
        for index, case in enumerate(cases):
            mine = {key.split("/", 1)[1]: given[key] for key in given.files if key.startswith(f"{index}/")}
            for reference in case["references"]:
                for key, value in run(reference, case, mine).items():
                    answers[f"{index}/{reference}/{key}"] = value
    np.savez(folder / "answers.npz", **answers)


def run(reference, case, given):
    """Every quantity that the case compares, by name."""
    clips = [dict(zip(("rmin", "rmax", "dmax"), each, strict=True)) for each in case["clips"]]
    arguments = case["arguments"] | ({"renorm_clipping": clips[0]} if clips else {})
    layer = built(reference, arguments, given)
    optimizer = optimizer_of(OPTIMIZERS[reference], case["optimizer"])
    found = {}
    for step in range(case["steps"]):
        if clips:
            layer.renorm_clipping = clips[step]
        found |= train(layer, optimizer, given[f"x{step}"], given[f"dy{step}"], step)
    for name, variable in weights(layer).items():
        found[name] = np.asarray(variable).reshape(-1)
    found["prediction"] = np.asarray(layer(given["shown"], training=False))
    return found


def built(reference, arguments, given):
    if (adjustment := arguments.get("adjustment")) is not None:
        scale, bias = (tf.constant(adjustment[key], tf.float32) for key in ("scale", "bias"))
        arguments = arguments | {"adjustment": lambda _: (scale, bias)}
    if reference == "keras3":
        arguments = {key: value for key, value in arguments.items() if key != "fused"}
    if isinstance(arguments.get("axis"), list):  # the layer writes into the list
        arguments = arguments | {"axis": list(arguments["axis"])}
    layer = LAYERS[reference](**arguments)
    layer.build((None, *given["x0"].shape[1:]))
    for name, variable in weights(layer).items():
        if name in given:
            variable.assign(given[name].reshape(variable.shape))
    return layer


def weights(layer):
    return {variable.name.split("/")[-1].split(":")[0]: variable for variable in layer.weights}


def optimizer_of(module, spec):
    if spec is None:
        return None
    config = {key: value for key, value in spec.items() if key != "name"}
    return module.deserialize({"class_name": CLASSES[spec["name"]], "config": config})


def train(layer, optimizer, x, dy, step):
    """One step down `sum(y dy)` and the penalties."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        penalty = tf.add_n([tf.zeros(()), *layer.losses])
        loss = tf.reduce_sum(y * dy) + penalty
    trained = list(layer.trainable_variables)
    dx, *gradients = tape.gradient(loss, [x, *map(plain, trained)])
    found = {f"y{step}": y, f"dx{step}": dx, f"penalty{step}": penalty}
    for name, variable in weights(layer).items():
        for each, gradient in zip(trained, gradients, strict=True):
            if each is variable:
                found[f"d{name}{step}"] = tf.reshape(gradient, [-1])
    if optimizer is not None and trained:
        optimizer.apply_gradients(zip(gradients, trained, strict=True))
    return {name: np.asarray(value) for name, value in found.items()}


def plain(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable


if __name__ == "__main__":
    main(*sys.argv[1:])
