/** What must not compile, so that the types are known to say something: each error is expected. */
import { gateway } from "./client.ts";

const client = gateway("", "");
const path = "/api/v1/ml/features/assets";

// @ts-expect-error: there is no such path
await client.POST("/api/v1/ml/features/asset", { body: { assetIds: [] } });
// @ts-expect-error: it takes no GET
await client.GET(path);
// @ts-expect-error: the body is missing
await client.POST(path);
// @ts-expect-error: ids are texts
await client.POST(path, { body: { assetIds: [1] } });
// @ts-expect-error: there is no such service
await client.POST(path, { body: { assetIds: [], service: "predictive_maintenance_v9" } });
const { data } = await client.POST(path, { body: { assetIds: [], service: "predictive_maintenance_v1" } });
// @ts-expect-error: there is no such status
data?.features.filter((asset) => asset.status === "missing");
// @ts-expect-error: a feature may be null
const score: number | string | undefined = data?.features[0]?.features.health_score;
const { data: run } = await client.POST("/api/v1/ml/features/materialize");
// @ts-expect-error: an id is a text
const id: number | undefined = run?.runId;
