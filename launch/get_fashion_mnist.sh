#!/usr/bin/env bash
# Installs Fashion-MNIST from Debian or Ubuntu's package archive; genjax then finds it by itself.
# Elsewhere: put the four idx files of the data set in a folder and name it by
# --config.data.main.source.path=FOLDER.
set -euo pipefail
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
$sudo apt-get update -qq
$sudo apt-get install -y -qq dataset-fashion-mnist
