#!/usr/bin/env bash
# Sets up, trains a flow-matching DiT on scikit-learn's digits, draws 1,000 samples, measures them.
# Minutes on two CPU cores. Run again, it goes on where it stopped.
needs="" source "$(dirname "$0")/setup.sh"
run=runs/quickstart
judge=runs/digits-classifier

# The judge: a small classifier trained on the real digits (its features give Frechet distances).
genjax train --config configs/classifier/digits.py --workdir "$judge"
genjax train --config configs/quickstart.py --workdir "$run"
genjax sample --workdir "$run" --num 1000 --out "$run/samples.npz" --grid "$run/samples.png"
genjax eval --samples "$run/samples.npz" --reference digits --extractor "classifier:$judge" \
  --metrics label_agreement,spread,nearest --json "$run/eval.json"
# The Frechet distance to held-out digits, beside that of the real training digits.
genjax eval --samples "$run/samples.npz" --reference digits:test --heldout digits:train \
  --extractor "classifier:$judge" --metrics fid --json "$run/eval_heldout.json"

cat <<EOF

Done. Look at
  $run/samples.png     1,000 samples, ten columns of classes
  $run/eval*.json      the figures above with their protocols
  $run/metrics.jsonl   the training curve ($run/tensorboard/ for TensorBoard)
Next (source $VIRTUAL_ENV/bin/activate puts genjax on the PATH)
  genjax sample --workdir $run --num 16 --labels 3,8 --guidance 3 --out some.npz --grid some.png
  genjax train --config configs/fashion_mnist/dit.py --workdir runs/fashion   (bash launch/get_fashion_mnist.sh)
  genjax train --config configs/quickstart.py --workdir runs/mine \\
    --config.data.main.source.name=image_folder --config.data.main.source.path=YOUR_FOLDER \\
    --config.data.main.image_size=32 --config.task.image='(32,32,3)' --config.task.levels=256 \\
    --config.data.main.channels=3 --config.task.model.num_classes=CLASSES
EOF
