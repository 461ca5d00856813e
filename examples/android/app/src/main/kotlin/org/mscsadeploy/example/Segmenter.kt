package org.mscsadeploy.example

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import java.nio.FloatBuffer
import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToLong

/** A class number per pixel. */
class ClassMap(val width: Int, val height: Int, val classes: IntArray) {
    /** The same at another size: each pixel takes the class under its center. */
    fun restore(toWidth: Int, toHeight: Int) = ClassMap(toWidth, toHeight, IntArray(toWidth * toHeight) { at ->
        val y = (2L * (at / toWidth) + 1) * height / (2L * toHeight)
        val x = (2L * (at % toWidth) + 1) * width / (2L * toWidth)
        classes[(y * width + x).toInt()]
    })
}

/** Runs a bundle's network on the processor. Use it from one background thread. */
class Segmenter(private val bundle: Bundle, threads: Int = 2) : AutoCloseable {
    private val artifact = bundle.choose()
    private val environment = OrtEnvironment.getEnvironment()
    private val session: OrtSession = OrtSession.SessionOptions().use { options ->
        options.setIntraOpNumThreads(threads)
        // The fusions for processors that an .ort file for accelerators brings; its hash is checked, so it can be trusted.
        options.addConfigEntry("session.enable_saved_runtime_optimizations", "1")
        environment.createSession(bundle.read(artifact.path), options)
    }

    /** The class map of an upright picture, at the picture's size. */
    fun segment(picture: Bitmap): ClassMap =
        answer(input(picture, bundle.preprocess)).second.restore(picture.width, picture.height)

    /** Whether this phone computes what the bundle's makers computed: its golden pair, within the manifest's tolerance. */
    fun check(): Verdict {
        val golden = bundle.golden ?: throw BundleException("The bundle has no golden pair to check with.")
        val limits = golden.tolerance(artifact.precision)
        val content = bundle.read(golden.picture)
        val picture = BitmapFactory.decodeByteArray(content, 0, content.size)
            ?: throw BundleException("'${golden.picture}' cannot be decoded.")
        val wanted = Npy(golden.input, bundle.read(golden.input)).floats()
        val prepared = input(picture, bundle.preprocess)
        if (prepared.size != wanted.size) throw BundleException("'${golden.input}' is not of the network's size.")
        val inputSteps = (255 * bundle.preprocess.std.maxOf { it } * farthest(prepared, wanted)).roundToLong()
        val (values, classes) = answer(wanted)
        val expected = Npy(golden.output, bundle.read(golden.output)).floats()
        val overRange = farthest(values, expected) / (expected.maxOf { it } - expected.minOf { it })
        val agreement = percentEqual(classes.classes, Npy(golden.answer, bundle.read(golden.answer)).classes())
        val near = limits.overRange == null || overRange <= limits.overRange
        return Verdict(inputSteps <= 1 && near && agreement >= limits.agreement, inputSteps, overRange, agreement)
    }

    /** The values that the network answers with, and the class map at the input's size. */
    private fun answer(input: FloatArray): Pair<FloatArray, ClassMap> {
        val spec = bundle.preprocess
        val shape = longArrayOf(1, 3, spec.height.toLong(), spec.width.toLong())
        return OnnxTensor.createTensor(environment, FloatBuffer.wrap(input), shape).use { tensor ->
            session.run(mapOf(artifact.input to tensor)).use { answer ->
                val output = answer.get(artifact.output).get() as OnnxTensor
                val (_, classes, rows, columns) = output.info.shape.map(Long::toInt)
                val values = FloatArray(classes * rows * columns).also { output.floatBuffer.get(it) }
                val (width, height) = if (artifact.upsample) spec.width to spec.height else columns to rows
                values to classMap(values, classes, rows, columns, width, height)
            }
        }
    }

    override fun close() = session.close()
}

/** A pixel as `Bitmap.getPixels` gives it (ARGB, not premultiplied) over white. */
internal fun overWhite(pixel: Int): Int {
    val alpha = pixel ushr 24
    var opaque = 0xff
    for (shift in intArrayOf(16, 8, 0)) {
        val value = pixel shr shift and 0xff
        opaque = opaque shl 8 or (value * alpha + 255 * (255 - alpha) + 127) / 255
    }
    return opaque
}

/** 3 x height x width, normalized; resized along rows, rounded to 8 bit, then along columns, rounded. */
internal fun input(picture: Bitmap, spec: Preprocess): FloatArray {
    val pixels = IntArray(picture.width * picture.height)
    picture.getPixels(pixels, 0, picture.width, 0, 0, picture.width, picture.height)
    if (picture.hasAlpha()) for (at in pixels.indices) pixels[at] = overWhite(pixels[at])
    val across = Taps(picture.width, spec.width)
    val down = Taps(picture.height, spec.height)
    val result = FloatArray(3 * spec.width * spec.height)
    val rows = IntArray(spec.width * picture.height)
    for (channel in 0 until 3) {
        val shift = 16 - 8 * channel
        val table = FloatArray(256) { ((it / 255.0 - spec.mean[channel]) / spec.std[channel]).toFloat() }
        for (y in 0 until picture.height) for (x in 0 until spec.width) {
            rows[y * spec.width + x] = across.sum(x) { pixels[y * picture.width + it] shr shift and 0xff }
        }
        for (y in 0 until spec.height) for (x in 0 until spec.width) {
            val value = down.sum(y) { rows[it * spec.width + x] }
            result[(channel * spec.height + y) * spec.width + x] = table[value]
        }
    }
    return result
}

/** A triangle filter, widened by the reduction, with weights in 22-bit fixed point. */
internal class Taps(source: Int, target: Int) {
    private val first = IntArray(target)
    private val weights: Array<IntArray>

    init {
        val scale = source.toDouble() / target
        val reach = max(scale, 1.0)
        weights = Array(target) { to ->
            val center = (to + 0.5) * scale
            first[to] = max(0, (center - reach + 0.5).toInt())
            val end = min(source, (center + reach + 0.5).toInt())
            val raw = DoubleArray(end - first[to]) { max(0.0, 1 - abs((first[to] + it - center + 0.5) / reach)) }
            IntArray(raw.size) { (raw[it] / raw.sum() * (1 shl BITS) + 0.5).toInt() }
        }
    }

    inline fun sum(to: Int, value: (Int) -> Int): Int {
        var sum = 1 shl (BITS - 1)
        weightsOf(to).forEachIndexed { index, weight -> sum += value(firstOf(to) + index) * weight }
        return (sum shr BITS).coerceIn(0, 255)
    }

    fun weightsOf(to: Int) = weights[to]

    fun firstOf(to: Int) = first[to]

    companion object {
        const val BITS = 22
    }
}

/**
 * The class that wins at each pixel after bilinear upsampling with half-pixel centers. Between four neighboring values
 * only a class whose largest corner reaches every other class's smallest can win; only those are interpolated.
 */
internal fun classMap(values: FloatArray, classes: Int, rows: Int, columns: Int, width: Int, height: Int): ClassMap {
    val plane = rows * columns
    val slack = 8 * Math.ulp(1f) * values.maxOf { abs(it) }
    if (!slack.isFinite()) throw BundleException("The network answered with values that are no numbers.")
    val result = IntArray(width * height)
    val able = IntArray(classes)
    var (cell, count) = -1 to 0
    for (y in 0 until height) {
        val down = ((y + 0.5) * rows / height - 0.5).coerceIn(0.0, rows - 1.0)
        val top = floor(down).toInt()
        val bottom = min(top + 1, rows - 1)
        for (x in 0 until width) {
            val across = ((x + 0.5) * columns / width - 0.5).coerceIn(0.0, columns - 1.0)
            val left = floor(across).toInt()
            val right = min(left + 1, columns - 1)
            val corners = intArrayOf(top * columns + left, top * columns + right, bottom * columns + left, bottom * columns + right)
            if (cell != corners[0]) {
                cell = corners[0]
                val floor = (0 until classes).maxOf { k -> corners.minOf { values[k * plane + it] } }
                count = 0
                for (k in 0 until classes) if (corners.maxOf { values[k * plane + it] } >= floor - slack) able[count++] = k
            }
            var (best, winner) = Float.NEGATIVE_INFINITY to able[0]
            for (index in 0 until if (count > 1) count else 0) {
                val (a, b, c, d) = corners.map { values[able[index] * plane + it] }
                val upper = a + (b - a) * (across - left).toFloat()
                val lower = c + (d - c) * (across - left).toFloat()
                val value = upper + (lower - upper) * (down - top).toFloat()
                if (value > best) { best = value; winner = able[index] }
            }
            result[y * width + x] = winner
        }
    }
    return ClassMap(width, height, result)
}
