package org.mscsadeploy.example

import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject
import java.io.File
import java.security.MessageDigest

/** Something to tell the person in front of the app. */
class BundleException(message: String) : Exception(message)

/** How a picture becomes the network's input. */
class Preprocess(json: JSONObject) {
    val height = json.getInt("height")
    val width = json.getInt("width")
    val mean = json.getJSONArray("mean").doubles()
    val std = json.getJSONArray("std").doubles()

    init {
        if (json.getString("resize") != "stretch" || json.getString("interpolation") != "bilinear") {
            throw BundleException("This app resizes by stretching and bilinearly only; the bundle asks for something else.")
        }
    }
}

/** One model file of the bundle. */
class Artifact(json: JSONObject) {
    /** ONNX Runtime's own format where the bundle has it (`deploy --mobile`), which its smaller builds need. */
    val path: String = json.optJSONObject("mobile")?.getString("path") ?: json.getString("path")
    val precision: String = json.getString("precision")
    val portable = json.getJSONArray("requires").length() == 0
    val runnable = json.getString("kind") == "onnx" && json.getJSONArray("runtimes").strings().contains("onnxruntime")
    val input: String = json.getJSONArray("inputs").getJSONObject(0).getString("name")
    private val post = json.getJSONObject("postprocess")
    val output: String = post.getString("tensor")
    val upsample = post.getString("upsample") == "bilinear"

    /** Whether it gives values per class, which this app takes; otherwise it ends in a class map. */
    val valued = post.getString("decide") == "argmax"
}

/** A bundle directory in the app's files; nothing in it is used before its SHA-256 was checked. */
class Bundle(private val root: File) {
    private val manifest = understood(root)
    private val hashes = reading {
        manifest.getJSONArray("files").objects().associate { it.getString("path") to it.getString("sha256") }
    }
    val labels: List<String> = reading { manifest.getJSONArray("labels").strings() }
    val palette: List<IntArray> = reading {
        val all = manifest.getJSONArray("palette")
        List(all.length()) { index -> all.getJSONArray(index).doubles().map(Double::toInt).toIntArray() }
    }
    val preprocess = reading { Preprocess(manifest.getJSONObject("preprocess")) }
    val golden: Golden? = reading { manifest.optJSONObject("golden")?.let(::Golden) }

    /** The file to run on a phone: made for any processor, the smallest precision first. */
    fun choose(): Artifact {
        val order = listOf("int8", "fp16", "fp32")
        val all = reading { manifest.getJSONArray("artifacts").objects().map(::Artifact) }
        return all.filter { it.runnable && it.portable && it.valued }.minByOrNull { order.indexOf(it.precision) }
            ?: throw BundleException("Nothing in the bundle runs on a phone. It holds: " + all.joinToString { it.path })
    }

    /** The content of a file. */
    fun read(path: String): ByteArray {
        val file = File(root, path)
        if (!file.isFile) throw BundleException("The bundle lacks '$path', which its manifest lists.")
        val content = file.readBytes()
        val digest = MessageDigest.getInstance("SHA-256").digest(content).joinToString("") { "%02x".format(it) }
        if (digest != hashes[path]) throw BundleException("'$path' is not the file its manifest describes (sha256 differs).")
        return content
    }

    private companion object {
        const val VERSION = 1

        /** The manifest, once it is known to be of a version and task that the rest of this class can read. */
        fun understood(root: File): JSONObject {
            val file = File(root, "manifest.json")
            if (!file.isFile) throw BundleException("There is no bundle in '$root': manifest.json is missing.")
            val manifest = try {
                JSONObject(file.readText())
            } catch (error: JSONException) {
                throw BundleException("'$file' is no JSON: ${error.message}")
            }
            // Not optInt, which takes 1.9 and 4294967297 for 1.
            val version = manifest.opt("schema_version")
            if (version !is Int || version !in 1..VERSION) throw BundleException("The bundle has schema version $version; this app reads up to $VERSION.")
            if (manifest.optString("task") != "seg") throw BundleException("This app segments; the bundle classifies.")
            return manifest
        }
    }
}

/** What [part] reads of the manifest; what is missing or of another type there is told in words. */
private inline fun <T> reading(part: () -> T): T = try {
    part()
} catch (error: JSONException) {
    throw BundleException("manifest.json is not the manifest of a bundle: ${error.message}")
}

private fun JSONArray.strings() = List(length(), ::getString)

private fun JSONArray.objects() = List(length(), ::getJSONObject)

private fun JSONArray.doubles() = DoubleArray(length(), ::getDouble)
