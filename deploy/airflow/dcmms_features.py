"""Two DAGs that run the feature store as a command, on the worker itself or in a pod: Airflow never imports Feast.

    dcmms_features           every hour: check everything; per view extract, check, publish, and verify what is online
    dcmms_features_history   every month: a snapshot of each day of its data interval, where there is none

Copy this file into the folder of the DAGs. Variables of the environment of Airflow's processes:

    DCMMS_FEATURES_COMMAND    the command on the worker
    DCMMS_FEATURES_IMAGE      the image of the feature store: with it each task is a pod beside deploy/kubernetes
    DCMMS_FEATURES_ALERT_TO   who gets a mail (connection smtp_default) when an hourly run has not ended after
    DCMMS_FEATURES_LATE       so many minutes, by default 45; 0: nobody

The command reads its settings as anywhere: on a worker from the file that FEATURE_STORE_ENV_FILE names, in a pod from
the ConfigMap and the Secret of deploy/kubernetes.
"""

import os
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import DAG, AsyncCallback, BaseOperator, CronDataIntervalTimetable, DeadlineAlert, DeadlineReference

HERE = "/opt/dcmms-feature-store"
COMMAND = shlex.split(
    os.environ.get("DCMMS_FEATURES_COMMAND") or f"{HERE}/.venv/bin/python {HERE}/materialize_features.py"
)
IMAGE = os.environ.get("DCMMS_FEATURES_IMAGE")
LATE = timedelta(minutes=float(os.environ.get("DCMMS_FEATURES_LATE") or 45))
ALERT_TO = os.environ.get("DCMMS_FEATURES_ALERT_TO") or "ml-platform@dcmms.example"
VIEWS = ("alarm_features", "asset_features", "recent_telemetry_features", "telemetry_features", "work_order_features")
# A view is on hold after a rollback, or another run has been busy for all of --wait: nothing has failed.
SKIPPED = [3, 75]
# The end of the data interval, so that a task that is cleared computes the same instant again.
AS_OF = "{{ data_interval_end | ts }}"
SINCE = "{{ data_interval_start | ts }}"


def task(task_id: str, *arguments: str) -> BaseOperator:
    """Return the operator that runs the command of the feature store with `arguments`, which may be templates."""
    if IMAGE:
        return pod(task_id, *arguments)
    from airflow.providers.standard.operators.bash import BashOperator

    return BashOperator(
        task_id=task_id, bash_command=shlex.join([*COMMAND, *arguments]), skip_on_exit_code=SKIPPED, do_xcom_push=False
    )


def pod(task_id: str, *arguments: str) -> BaseOperator:
    """Return the operator of a pod as deploy/kubernetes/materialize.yaml has it."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from kubernetes.client import models as k8s

    name = "dcmms-feature-store"
    return KubernetesPodOperator(
        task_id=task_id,
        arguments=list(arguments),
        image=IMAGE,
        namespace="dcmms-features",
        labels={"app.kubernetes.io/name": name, "app.kubernetes.io/component": "materialize"},
        service_account_name=name,
        automount_service_account_token=False,
        env_from=[
            k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name=name)),
            k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name)),
        ],
        container_resources=k8s.V1ResourceRequirements(
            requests={"cpu": "1", "memory": "1Gi"}, limits={"cpu": "2", "memory": "4Gi"}
        ),
        security_context=k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=10001,
            run_as_group=10001,
            fs_group=10001,
            fs_group_change_policy="OnRootMismatch",
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        container_security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        volumes=[
            k8s.V1Volume(
                name="snapshots",
                persistent_volume_claim=k8s.V1PersistentVolumeClaimVolumeSource(claim_name="snapshots"),
            ),
            k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource()),
        ],
        volume_mounts=[
            k8s.V1VolumeMount(name="snapshots", mount_path="/var/lib/dcmms-feature-store"),
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),
        ],
        skip_on_exit_code=SKIPPED,
        on_finish_action="delete_succeeded_pod",
        do_xcom_push=False,
    )


def late() -> DeadlineAlert | None:
    """Return the alert, a mail, for a run that has not ended so long after it was queued."""
    if not LATE:
        return None
    mail = {
        "to": ALERT_TO,
        "subject": "{{ dag_run.dag_id }} is late: {{ dag_run.run_id }}",
        "html_content": f"It has not ended within {LATE}. docs/runbook.md of the feature store says what to do.",
    }
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=LATE, callback=AsyncCallback(SmtpNotifier, kwargs=mail)
    )


# The command tries again what may pass (RETRY_SECONDS), and the next run does what this one could not.
COMMON: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "catchup": False,
    "max_active_runs": 1,
    # The command's own lock lets one run through at a time, on whatever host.
    "max_active_tasks": 1,
    "default_args": {"owner": "ml-platform", "retries": 0, "execution_timeout": timedelta(minutes=50)},
    "tags": ["dcmms", "features"],
}

with DAG(
    "dcmms_features",
    description="Materialize the features of dCMMS.",
    # 20 past, when the telemetry of the last hour has arrived. SCHEDULE_MINUTES has to agree.
    schedule=CronDataIntervalTimetable("20 * * * *", timezone="UTC"),
    deadline=late(),
    **COMMON,
):
    check = task("check", "doctor", "--as-of", AS_OF)
    for view in VIEWS:
        materialize = task(
            f"materialize_{view}",
            *("run", "--view", view, "--as-of", AS_OF, "--wait", "600", "--timeout", "2400", "--log-format", "json"),
        )
        check >> materialize >> task(f"verify_{view}", "verify", "--view", view)

with DAG(
    "dcmms_features_history",
    description="Write the snapshots of each day of a month, where there is none; of past months by a backfill.",
    schedule=CronDataIntervalTimetable("0 0 1 * *", timezone="UTC"),
    **(COMMON | {"default_args": COMMON["default_args"] | {"execution_timeout": timedelta(hours=4)}}),
):
    for view in VIEWS:
        task(f"backfill_{view}", "backfill", "--view", view, "--start", SINCE, "--end", AS_OF, "--every", "1d")
