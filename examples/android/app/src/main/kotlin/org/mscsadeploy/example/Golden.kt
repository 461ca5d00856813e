package org.mscsadeploy.example

import org.json.JSONObject
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** How far this phone may be from where the bundle was made; [overRange] is null where only decisions are compared. */
class Tolerance(json: JSONObject) {
    val overRange: Double? = if (json.isNull("max_abs_over_range")) null else json.getDouble("max_abs_over_range")
    val agreement = json.getDouble("argmax_agreement")
}

/** The pair that a bundle brings to check an app with: a picture, and what has to become of it. */
class Golden(json: JSONObject) {
    val picture: String = json.getString("picture")
    val input: String = json.getString("input")
    val output: String = json.getString("output")
    val answer: String = json.getString("answer")
    private val limits = json.getJSONObject("tolerance")
    private val tolerances = limits.keys().asSequence().associateWith { Tolerance(limits.getJSONObject(it)) }

    /** By the precision of the file that runs. */
    fun tolerance(precision: String): Tolerance =
        tolerances[precision] ?: throw BundleException("The golden pair has no tolerance for $precision.")
}

/**
 * What [Segmenter.check] found: the largest difference of the inputs in steps of the 8-bit picture, that of the outputs
 * over the golden output's range, and the percentage of equal pixels in the class maps.
 */
data class Verdict(val passed: Boolean, val inputSteps: Long, val overRange: Double, val agreement: Double)

/** The values in a NumPy file, which a bundle writes little-endian and row by row. */
internal class Npy(private val path: String, content: ByteArray) {
    private val type: String
    private val values: ByteBuffer

    init {
        if (content.size < 10 || String(content, 1, 5, Charsets.US_ASCII) != "NUMPY") throw BundleException("'$path' is no NumPy file.")
        val start = 10 + (content[8].toInt() and 0xff) + 256 * (content[9].toInt() and 0xff)
        if (start > content.size) throw BundleException("'$path' is no whole NumPy file.")
        val header = String(content, 10, start - 10, Charsets.US_ASCII)
        type = Regex("'descr': *'([^']*)'").find(header)?.groupValues?.get(1).orEmpty()
        values = ByteBuffer.wrap(content, start, content.size - start).slice().order(ByteOrder.LITTLE_ENDIAN)
    }

    fun floats(): FloatArray {
        if (type != "<f4") throw BundleException("'$path' holds values of type '$type', not '<f4'.")
        return FloatArray(values.remaining() / 4).also { values.asFloatBuffer().get(it) }
    }

    fun classes(): IntArray = when (type) {
        "|u1" -> IntArray(values.remaining()) { values.get(it).toInt() and 0xff }
        "<u2" -> IntArray(values.remaining() / 2) { values.getShort(2 * it).toInt() and 0xffff }
        else -> throw BundleException("'$path' holds values of type '$type', not class numbers.")
    }
}

/** The largest difference; infinite between arrays of other lengths. */
internal fun farthest(one: FloatArray, other: FloatArray): Double {
    if (one.size != other.size) return Double.POSITIVE_INFINITY
    return one.indices.maxOf { kotlin.math.abs(one[it].toDouble() - other[it]) }
}

/** The percentage of equal classes; none between maps of other sizes. */
internal fun percentEqual(one: IntArray, other: IntArray): Double {
    if (one.size != other.size) return 0.0
    return 100.0 * one.indices.count { one[it] == other[it] } / one.size
}
