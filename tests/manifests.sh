#!/usr/bin/env bash
# The image's recipe and the manifests of deploy/, as their own tools see them. $1: the folder of those programs.
set -euo pipefail
bin=$1
echo "hadolint: Dockerfile"
"$bin/hadolint" Dockerfile
echo "kubernetes-validate: deploy/kubernetes"
for file in deploy/kubernetes/*.yaml; do
    [ "$file" = deploy/kubernetes/kustomization.yaml ] || "$bin/kubernetes-validate" --strict --quiet "$file"
done
echo "checkov: deploy/kubernetes, Dockerfile"
"$bin/checkov" --directory deploy/kubernetes --framework kubernetes --skip-download --compact --quiet
"$bin/checkov" --file Dockerfile --framework dockerfile --skip-download --compact --quiet
echo "compose-spec: docker-compose.yml"
"$bin/python" - <<'PYTHON'
import yaml
from compose_spec import ComposeSpecification

with open("docker-compose.yml", encoding="utf-8") as file:
    text = yaml.safe_load(file)
ComposeSpecification.model_validate(text)
fields = type(next(iter(ComposeSpecification.model_validate(text).services.values()))).model_fields
known = {field.alias or name for name, field in fields.items()}
for name, service in text["services"].items():  # the model passes over keys that it does not know
    assert set(service) <= known, f"{name}: unknown {set(service) - known}"
PYTHON
