package org.mscsadeploy.example

import android.content.res.AssetManager
import java.io.File

/** Copies the asset folder (or file) [path] to [target] with everything below it; what is there is overwritten. */
fun copyAssets(assets: AssetManager, path: String, target: File) {
    val below = assets.list(path).orEmpty()
    for (name in below) copyAssets(assets, "$path/$name", File(target, name))
    if (below.isNotEmpty()) return
    target.parentFile?.mkdirs()
    assets.open(path).use { from -> target.outputStream().use { to -> from.copyTo(to) } }
}
