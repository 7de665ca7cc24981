"""Every setting, with its unit, its default and the reason for it. `sightline settings` prints this list.

Settings come from the environment or a `.env` file in the working directory; the environment wins.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """All of Sightline's settings. A field `clip_model` is the variable `CLIP_MODEL`."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    clip_model: str = Field(
        "sightline-small",
        description="OpenCLIP model name: what `sightline index` builds with, and what a server loads first; it then "
        "searches every index with the model it was built with. The default is the small model shipped with the "
        "project, which knows only drawn scenes; for photographs use ViT-H-14.",
    )
    clip_pretrained: str = Field(
        "",
        description="Pretrained tag of the model (laion2b_s32b_b79k for ViT-H-14), or the path of a local safetensors "
        "file or of a folder that `sightline models export` made. Empty for the shipped model.",
    )
    clip_device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        "auto", description="Where the encoder computes. auto takes the first of CUDA, MPS and CPU that is there."
    )
    clip_runtime: Literal["auto", "openvino", "torch", "torch-compile"] = Field(
        "auto",
        description="What runs the model. auto takes torch on an accelerator and openvino, several times faster there, "
        "on the CPU. torch-compile takes a minute to start.",
    )
    clip_precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="Precision of the model's arithmetic. auto measures once on this processor and takes the fastest "
        "whose vectors keep a cosine of 0.999 with fp32; on CUDA it is fp16. `sightline models bench` shows the costs.",
    )
    clip_exports: Path | None = Field(
        None,
        description="Folder of models exported for the CPU, each made at its first use. Exports and safetensors files "
        "that are copied there are found by servers whose indexes were built with them. Empty for the user's cache.",
    )
    clip_threads: int = Field(
        0,
        ge=0,
        description="CPU threads of the encoder. 0 takes one for each core that the process may use, container limits "
        "included; for a few texts half of them, where the others are measured to hardly help.",
    )
    clip_max_batch: int = Field(
        0,
        ge=0,
        le=1024,
        description="Most texts encoded at once; an eighth of it, of pictures. 0 takes 64 on a GPU and 8 on a "
        "processor, which is not faster with more, and all of them wait for the last.",
    )
    clip_queue_limit: int = Field(
        1024,
        ge=1,
        description="Texts waiting for the encoder before OVERLOADED is answered: bounds memory and waiting time.",
    )

    index_path: Path = Field(
        Path("data"), description="Folder that holds every local index: vectors, ledger, thumbnails."
    )
    index_name: str = Field(
        "default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="The index that is meant when none is named."
    )
    index_database_url: SecretStr = Field(
        SecretStr(""),
        description="PostgreSQL for the catalogue and ledger of all indexes, postgresql://user:password@host/database; "
        "?sslmode=verify-full asks for TLS. Empty for a SQLite file in each index's folder, which needs no server; "
        "workers on several machines need PostgreSQL. In one database a name means one index.",
    )
    index_batch_size: int = Field(
        256,
        ge=1,
        le=4096,
        description="Pictures embedded and written at once. 256 keeps the encoder busy in bounded memory.",
    )
    index_workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Processes that decode pictures while the encoder works. 0 takes one for each core and one more.",
    )
    index_max_pixels: int = Field(
        100_000_000, ge=1, description="Pixels above which a picture is refused: guards against decompression bombs."
    )
    index_max_bytes: int = Field(
        256 * 1024 * 1024, ge=1, description="Bytes above which a file is refused before it is read."
    )
    index_decode_timeout_s: float = Field(
        20.0, gt=0, description="Seconds after which decoding one picture is given up and its worker replaced."
    )
    index_worker_memory_mb: int = Field(
        2048, ge=128, description="Megabytes of address space a decoding worker may add before it is stopped."
    )
    index_fetches: int = Field(
        32,
        ge=1,
        le=256,
        description="Pictures fetched at once from a store or the web. 32 bring 300 a second where each takes 100 ms, "
        "as many as two cores decode.",
    )
    index_fetch_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Seconds that one attempt may take to fetch a picture or a page of a listing: enough for a large "
        "picture on a slow line.",
    )
    index_fetch_attempts: int = Field(
        4,
        ge=1,
        le=20,
        description="Attempts at fetching a picture or a page before it is given up, with random pauses that double "
        "from half a second: they outlast a few seconds of trouble.",
    )
    index_thumbnail_px: int = Field(
        320, ge=32, le=2048, description="Longer side of thumbnails in pixels: a grid cell at 2x."
    )
    index_keep_generations: int = Field(2, ge=1, description="Generations kept for rollback, the serving one included.")
    index_min_recall: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Share of the true nearest ten that a new generation's graph must find, or it is not promoted. The "
        "default settings reach 0.97 at a million vectors; less than 0.95 means that something went wrong. 0 asks "
        "nothing.",
    )
    index_canaries: Path | None = Field(
        None,
        description='JSON file of searches that must find certain pictures before a generation is promoted: [{"query": '
        '"a red car", "expect": ["cars/1.jpg"], "within": 10}]. Empty for none.',
    )

    search_hnsw_m: int = Field(
        16, ge=4, le=128, description="HNSW links per node. 16 holds recall at 1M x 512 in bounded RAM."
    )
    search_ef_construct: int = Field(
        200, ge=8, le=2000, description="HNSW candidates while building: quality of the graph."
    )
    search_ef: int = Field(128, ge=8, le=4096, description="HNSW candidates while searching: recall against latency.")
    search_quantile: float = Field(
        0.99, gt=0.5, le=1, description="Quantile of values kept by int8 quantization; the rest is clipped."
    )

    search_timeout_s: float = Field(
        5.0,
        gt=0,
        description="Seconds that a search waits for its index before INDEX_UNAVAILABLE is answered, and that an index "
        "process may hang before it is replaced. Comparing a million vectors takes half a second. Less than "
        "API_REQUEST_TIMEOUT_S, so that clients hear which part is away.",
    )

    qdrant_url: str = Field(
        "",
        pattern=r"^(https?://[^/\s]+)?$",
        description="gRPC address of a Qdrant server, http://host:6334, or https:// for TLS with the system's "
        "certificates (GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names others). Empty for the embedded Qdrant Edge.",
    )
    qdrant_api_key: SecretStr = Field(
        SecretStr(""), description="API key of the Qdrant server; it needs to read and write. Empty for none."
    )
    qdrant_timeout_s: float = Field(
        4.0,
        gt=0,
        description="Seconds that a read at Qdrant may take, its retry included. Less than SEARCH_TIMEOUT_S, so that "
        "a connection that was too slow is replaced. Writes get six times that: they wait until replicas have them.",
    )
    qdrant_pool: int = Field(
        3,
        ge=1,
        le=64,
        description="Connections to Qdrant. Calls share them; several keep a large answer from delaying small ones.",
    )
    qdrant_shards: int = Field(
        1, ge=1, le=1024, description="Shards of a new collection. One a node spreads an index over a cluster."
    )
    qdrant_replicas: int = Field(
        1, ge=1, le=64, description="Copies of each shard of a new collection. 2 and more survive the loss of a node."
    )
    qdrant_write_consistency: int = Field(
        1,
        ge=1,
        le=64,
        description="Copies that must have a write before it counts. More are safer and stop writes while one is away.",
    )

    cache_max_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Bytes of answers remembered in this process; 0 remembers nothing."
    )
    cache_embedding_bytes: int = Field(
        32 * 1024 * 1024,
        ge=0,
        description="Bytes of texts' embeddings remembered in this process, apart from answers; 0 remembers none. "
        "32 MB hold about 13,000 of 512 dimensions.",
    )
    cache_ttl_s: float = Field(
        3600,
        gt=0,
        description="Seconds an answer is remembered; a copy that a server took from Redis may live one minute longer. "
        "Promotions change the key anyway.",
    )

    redis_url: SecretStr = Field(
        SecretStr(""),
        description="Redis behind the cache in memory, shared by all servers: redis://USER:PASSWORD@HOST:PORT/0, or "
        "rediss:// for TLS (?ssl_ca_certs=FILE for your own authority). Empty for none. Searches work without it.",
    )
    redis_cluster: bool = Field(
        False, description="Whether REDIS_URL is a node of a Redis Cluster; the others are found from there."
    )
    redis_pool: int = Field(
        20, ge=1, le=1000, description="Connections to Redis at most (in a cluster, to each node); more requests wait."
    )
    redis_timeout_ms: int = Field(
        50,
        ge=1,
        description="Milliseconds a request to Redis may take, connecting included, before it counts as a miss: what a "
        "broken cache costs a look-up, until it is left alone after 5 failures in a row.",
    )

    api_host: str = Field("127.0.0.1", description="Address to listen on. Containers set 0.0.0.0.")
    api_port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes any free one.")
    api_max_depth: int = Field(12, ge=1, description="Levels of nested fields a query may have.")
    api_max_aliases: int = Field(30, ge=0, description="Aliases a query may have: bounds searches in one request.")
    api_max_tokens: int = Field(2000, ge=10, description="Lexical tokens a query may have: bounds parsing.")
    api_max_complexity: int = Field(
        5000, ge=1, description="Cost a query may have: each field counts 1, lists count `first` times their contents."
    )
    api_max_body_bytes: int = Field(10 * 1024 * 1024, ge=1024, description="Bytes of a request's body.")
    api_request_timeout_s: float = Field(
        10.0, gt=0, description="Seconds after which a request is given up with an error, so that none is left hanging."
    )
    api_drain_s: float = Field(
        5.0,
        ge=0,
        description="Seconds that the server goes on answering after SIGTERM, while /readyz says no: load balancers "
        "take that long to look elsewhere. Ctrl-C does not wait.",
    )
    api_shutdown_grace_s: float = Field(
        20.0, ge=0, description="Seconds that running requests get to finish after that."
    )
    api_needs_index: bool = Field(
        True,
        description="Whether /readyz waits until INDEX_NAME can be searched. A server of many indexes that come and go "
        "sets false: it is ready when its model is loaded and the store of its indexes answers.",
    )
    api_introspection: bool = Field(True, description="Whether the schema can be asked for; GraphiQL needs it.")

    operator_namespaces: str = Field(
        "",
        pattern=r"^([a-z0-9-]+(,[a-z0-9-]+)*)?$",
        description="Namespaces whose ImageIndexes the operator looks after, separated by commas. Empty for all.",
    )
    operator_namespace: str = Field(
        "default",
        pattern=r"^[a-z0-9-]+$",
        description="Namespace of the operator itself, where its Lease lies: of several operators there, one works.",
    )
    operator_identity: str = Field(
        "", description="Name of this operator in the Lease: its pod's. Empty for the host's name and a random part."
    )
    operator_image: str = Field(
        "sightline:latest", min_length=1, description="Image of the pods that index and serve, the operator's own."
    )
    operator_stores_secret: str = Field(
        "sightline-stores",
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        description="Secret in each namespace whose keys are variables of the pods: INDEX_DATABASE_URL, "
        "QDRANT_API_KEY, REDIS_URL. So the operator never reads a secret's contents.",
    )
    operator_data_claim: str = Field(
        "",
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$",
        description="PersistentVolumeClaim in each namespace, writable by many, for thumbnails and manifests. Empty "
        "for none that outlast a pod: searches work without them.",
    )
    operator_prometheus_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Prometheus that KEDA asks; needed for autoscaling class keda only.",
    )
    operator_host: str = Field(
        "127.0.0.1", description="Address of the operator's own probes and metrics. Containers set 0.0.0.0."
    )
    operator_port: int = Field(
        8080, ge=0, le=65535, description="TCP port of the operator's own /livez, /readyz and /metrics; 0 takes any."
    )
    operator_resync_s: float = Field(
        300.0,
        gt=0,
        description="Seconds after which everything is compared again without a reason: bounds how long a lost event "
        "or a drift that nobody reported can last. Each ImageIndex costs eight small requests.",
    )
    operator_workers: int = Field(
        8, ge=1, le=256, description="ImageIndexes that are worked on at once; each one by one worker at a time."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line written."
    )

    def max_batch(self, device: str) -> int:
        """Most texts encoded at once on "cpu", "cuda" or "mps"."""
        return self.clip_max_batch or (8 if device == "cpu" else 64)

    def environment(self) -> dict[str, str]:
        """These settings as variables for a child process, secrets as they are: never log it."""
        values = self.model_dump(mode="json") | {
            name: value.get_secret_value() for name, value in self if isinstance(value, SecretStr)
        }
        return {name.upper(): str(value) for name, value in values.items() if value is not None}


@cache
def settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
