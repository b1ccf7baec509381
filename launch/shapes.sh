#!/usr/bin/env bash
# From pictures to tokens to pictures of prompts on the made-up data set `shapes`: tokenizer,
# SentencePiece, tokens, Parti, CoCa, samples, and the exact checker's figures on combinations of
# colour and shape that no stage has seen. Under two hours on two CPU cores. Run again, it goes on
# where it stopped.
needs="" source "$(dirname "$0")/setup.sh"
root=runs/shapes

genjax train --config configs/vit_vqgan/shapes.py --workdir "$root/tokenizer"
[ -e "$root/text/text.json" ] ||
  genjax prepare captions --source shapes --out "$root/text"
[ -e "$root/tokens/index.json" ] ||
  genjax prepare tokens --workdir "$root/tokenizer" --batch 256 --out "$root/tokens"
genjax train --config configs/parti/shapes.py --workdir "$root/parti"
genjax train --config configs/coca/shapes.py --workdir "$root/coca"

# A folder with a page: the first held-out captions, the best of 16.
genjax sample --workdir "$root/parti" --prompts shapes:heldout --num 64 --candidates 16 \
  --rerank "$root/coca" --out "$root/samples"
# The four combinations of guidance and reranking over 512 held-out prompts.
python benchmarks/parti_shapes.py --tokenizer "$root/tokenizer" --parti "$root/parti" \
  --coca "$root/coca" --num 512

cat <<EOF2

Done. Look at
  $root/samples/index.html         prompts, pictures and CoCa's scores
  $root/tokenizer/samples          pictures beside their reconstructions
  $root/parti/samples              pictures of captions during training
Next (source $VIRTUAL_ENV/bin/activate puts genjax on the PATH)
  genjax eval --workdir $root/parti --reference shapes:heldout --metrics shapes --num 512
  python -c 'import genjax; genjax.load("$root/parti").generate("a red circle above a blue square")'
EOF2
