/** A client of the gateway that knows its paths, bodies and answers. */
import createClient from "openapi-fetch";
import type { paths } from "./gateway.d.ts";

export const gateway = (baseUrl: string, token: string) =>
  createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });
